package pccl

/*
#cgo pkg-config: pccl
#include <pccl.h>
#include <pccl_ext.h>
*/
import "C"

import (
	"fmt"
	"strconv"
	"strings"
)

// Code is which error it is: pcclResult_t. It is an error too, for errors.Is.
type Code int

// The header's comment on each function says which it may be, and when.
const (
	// NotInitialized: the library is not initialised. The package does that, so this is a fault of the package.
	NotInitialized Code = C.pcclNotInitialized
	// InternalError: a fault of the library, or no memory or threads to be had. Close the communicator.
	InternalError Code = C.pcclInternalError
	// InvalidArgument: an argument was refused, or the peers' descriptors differ.
	InvalidArgument Code = C.pcclInvalidArgument
	// InvalidUsage: not allowed in this state, or peers wait in different calls.
	InvalidUsage Code = C.pcclInvalidUsage
	// TooFewPeers: this peer is alone in its group.
	TooFewPeers Code = C.pcclTooFewPeers
	// MasterConnectionFailed: the master cannot be reached, refused this peer or has evicted it. Connect again.
	MasterConnectionFailed Code = C.pcclMasterConnectionFailed
	// RankConnectionFailed: another peer cannot be reached.
	RankConnectionFailed Code = C.pcclRankConnectionFailed
	// RankConnectionLost: a peer was lost during the operation. What was sent is whole, the world size is new: call again.
	RankConnectionLost Code = C.pcclRankConnectionLost
	// NoSharedStateAvailable: no peer can give the shared state with the revision that is due.
	NoSharedStateAvailable Code = C.pcclNoSharedStateAvailable
	// PendingAsyncOps: operations are in flight that were not waited for.
	PendingAsyncOps Code = C.pcclPendingAsyncOps
	// UpdateTopologyFailed: this peer was evicted, or the master stayed away. Make a new communicator.
	UpdateTopologyFailed Code = C.pcclUpdateTopologyFailed
	// TopologyOptimizationFailed: the topology could not be optimised.
	TopologyOptimizationFailed Code = C.pcclTopologyOptimizationFailed
)

var names = map[Code]string{
	NotInitialized:             "NotInitialized",
	InternalError:              "InternalError",
	InvalidArgument:            "InvalidArgument",
	InvalidUsage:               "InvalidUsage",
	TooFewPeers:                "TooFewPeers",
	MasterConnectionFailed:     "MasterConnectionFailed",
	RankConnectionFailed:       "RankConnectionFailed",
	RankConnectionLost:         "RankConnectionLost",
	NoSharedStateAvailable:     "NoSharedStateAvailable",
	PendingAsyncOps:            "PendingAsyncOps",
	UpdateTopologyFailed:       "UpdateTopologyFailed",
	TopologyOptimizationFailed: "TopologyOptimizationFailed",
}

func (code Code) name() string {
	if name, known := names[code]; known {
		return name
	}
	return strconv.Itoa(int(code))
}

// What each means, and what to do next. The library adds the reason of a single failure.
var meanings = map[Code]string{
	NotInitialized:  "the library is not initialised",
	InternalError:   "a fault of the library, or no memory or threads to be had; close the communicator",
	InvalidArgument: "an argument was refused, or the peers' counts, types, operations or codecs for this tag differ",
	InvalidUsage:    "not allowed now: not connected, connected already, or peers are in different calls",
	TooFewPeers:     "this peer is alone in its group; call UpdateTopology until another is admitted",
	MasterConnectionFailed: "the master cannot be reached, refused this peer or has evicted it; Connect may be called " +
		"again",
	RankConnectionFailed: "another peer cannot be reached",
	RankConnectionLost: "a peer was lost during the operation; what was sent is whole and the world size is new: call " +
		"again",
	NoSharedStateAvailable: "no peer can give the shared state with the revision that is due",
	PendingAsyncOps:        "operations are in flight; wait for them first",
	UpdateTopologyFailed: "the join point failed: this peer was evicted, or the master stayed away; make a new " +
		"communicator",
	TopologyOptimizationFailed: "the topology could not be optimised; wait for all operations, or make a new " +
		"communicator",
}

func (code Code) Error() string {
	if meaning, known := meanings[code]; known {
		return meaning
	}
	return fmt.Sprintf("result %d, which this package does not know", int(code))
}

// Error is what a call came to: a code to act on, and a text for a person, which names the call.
type Error struct {
	Code Code
	// Call is the function of the C API, with what tells this call from others.
	Call string
	// Text says what happened and what to do next.
	Text string
}

func (err *Error) Error() string {
	return fmt.Sprintf("%s: %s [%s]", err.Call, err.Text, err.Code.name())
}

// Unwrap lets errors.Is compare the code.
func (err *Error) Unwrap() error { return err.Code }

func failure(code Code, call, format string, values ...any) error {
	return &Error{Code: code, Call: call, Text: fmt.Sprintf(format, values...)}
}

// check turns a result into an error, unless it is a success. Whoever has made the call keeps its thread until then: the
// library's reason is that thread's.
func check(result C.pcclResult_t, format string, values ...any) error {
	if result == C.pcclSuccess {
		return nil
	}
	code := Code(result)
	call, text := fmt.Sprintf(format, values...), code.Error()
	var said *C.char
	if C.pcclGetErrorText(&said) == C.pcclSuccess {
		// Only that of this very function.
		name, reason, _ := strings.Cut(C.GoString(said), ": ")
		if function, _, _ := strings.Cut(call, " "); function == name {
			text += " (" + reason + ")"
		}
	}
	return &Error{Code: code, Call: call, Text: text}
}
