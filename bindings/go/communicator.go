package pccl

/*
#include <pccl_ext.h>
*/
import "C"

import (
	"net"
	"runtime"
	"strconv"
	"sync"
)

// Ensemble is peers that are admitted all together or not at all: pcclEnsemble_t.
type Ensemble struct {
	// ID is the same at all of its members, and was never used before.
	ID   uint64
	Size uint32
}

// Configuration is what a communicator is made from.
type Configuration struct {
	// Master is where it listens: host:port or [IPv6 address]:port.
	Master string
	// PeerGroup is what collectives, join points and shared states span.
	PeerGroup uint32
	// ConnectionsPerPeer: 0 lets the library choose.
	ConnectionsPerPeer uint32
	// Ensemble is nil for a peer that comes alone.
	Ensemble *Ensemble
}

// Communicator is a peer's membership in a run. It must be closed.
type Communicator struct {
	master string
	native *C.pcclComm_t

	lock     sync.Mutex
	idle     *sync.Cond // that inside has become 0
	inside   int        // goroutines in a call
	isClosed bool
	flying   map[*Operation]struct{}
}

func resolve(text string) (C.ccoip_socket_address_t, error) {
	var native C.ccoip_socket_address_t
	refused := func(why string) error { return failure(InvalidArgument, "address "+strconv.Quote(text), "%s", why) }
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" {
		return native, refused("expected host:port")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return native, refused("the port must be a number from 1 to 65535")
	}
	found, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return native, refused(err.Error())
	}
	native.port = C.uint16_t(number)
	if four := found.IP.To4(); four != nil {
		native.inet.protocol = C.inetIPv4
		for i, part := range four {
			native.inet.ipv4.data[i] = C.uint8_t(part)
		}
	} else {
		native.inet.protocol = C.inetIPv6
		for i, part := range found.IP.To16() {
			native.inet.ipv6.data[i] = C.uint8_t(part)
		}
	}
	return native, nil
}

// NewCommunicator makes one, and resolves the master's name. It does not touch the network otherwise.
func NewCommunicator(configuration Configuration) (*Communicator, error) {
	address, err := resolve(configuration.Master)
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := check(C.pcclInit(), "pcclInit"); err != nil {
		return nil, err
	}
	parameters := C.pcclCommCreateParams_t{
		master_address:           address,
		peer_group:               C.uint32_t(configuration.PeerGroup),
		p2p_connection_pool_size: C.uint32_t(configuration.ConnectionsPerPeer),
	}
	communicator := &Communicator{master: configuration.Master, flying: map[*Operation]struct{}{}}
	communicator.idle = sync.NewCond(&communicator.lock)
	var native *C.pcclComm_t
	if ensemble := configuration.Ensemble; ensemble != nil {
		nativeEnsemble := C.pcclEnsemble_t{id: C.uint64_t(ensemble.ID), size: C.uint32_t(ensemble.Size)}
		err = check(C.pcclCreateCommunicatorInEnsemble(&parameters, &nativeEnsemble, &native),
			"pcclCreateCommunicatorInEnsemble")
	} else {
		err = check(C.pcclCreateCommunicator(&parameters, &native), "pcclCreateCommunicator")
	}
	if err != nil {
		return nil, err
	}
	communicator.native = native
	return communicator, nil
}

// enter begins a call, which keeps Close waiting until leave, and the goroutine on its thread, for check.
func (communicator *Communicator) enter(call string) error {
	communicator.lock.Lock()
	defer communicator.lock.Unlock()
	if communicator.isClosed {
		return failure(InvalidUsage, call, "the communicator is closed")
	}
	communicator.inside++
	runtime.LockOSThread()
	return nil
}

func (communicator *Communicator) leave() {
	runtime.UnlockOSThread()
	communicator.lock.Lock()
	defer communicator.lock.Unlock()
	communicator.inside--
	if communicator.inside == 0 {
		communicator.idle.Broadcast()
	}
}

// do makes a call of the C API that wants nothing but the communicator.
func (communicator *Communicator) do(call string, body func() C.pcclResult_t) error {
	if err := communicator.enter(call); err != nil {
		return err
	}
	defer communicator.leave()
	return check(body(), "%s", call)
}

// Close leaves the run. Operations in flight end, and no buffer is used afterwards. It waits until no other goroutine is
// inside a call; calls that begin meanwhile get InvalidUsage. May be repeated.
func (communicator *Communicator) Close() error {
	communicator.lock.Lock()
	if communicator.isClosed {
		communicator.lock.Unlock()
		return nil
	}
	communicator.isClosed = true
	for communicator.inside > 0 {
		communicator.idle.Wait()
	}
	flying := communicator.flying
	communicator.flying = nil
	communicator.lock.Unlock()

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := check(C.pcclDestroyCommunicator(communicator.native), "pcclDestroyCommunicator")
	for operation := range flying {
		giveBack(operation.blocks)
	}
	return err
}

// Connect joins the run, and blocks until admitted. May be called again after MasterConnectionFailed. In the turn in which
// it joined a peer does not call UpdateTopology.
func (communicator *Communicator) Connect() error {
	return communicator.do("pcclConnect to "+communicator.master, func() C.pcclResult_t {
		return C.pcclConnect(communicator.native)
	})
}

// UpdateTopology is the join point: it admits who waits in Connect. Joint: all members of the group call it.
func (communicator *Communicator) UpdateTopology() error {
	return communicator.do("pcclUpdateTopology", func() C.pcclResult_t {
		return C.pcclUpdateTopology(communicator.native)
	})
}

// ArePeersPending tells whether peers wait in Connect. Joint, and the same answer for all.
func (communicator *Communicator) ArePeersPending() (bool, error) {
	var answer C.bool
	err := communicator.do("pcclArePeersPending", func() C.pcclResult_t {
		return C.pcclArePeersPending(communicator.native, &answer)
	})
	return bool(answer), err
}

// OptimizeTopology arranges the group by what is known of its links. Joint.
func (communicator *Communicator) OptimizeTopology() error {
	return communicator.do("pcclOptimizeTopology", func() C.pcclResult_t {
		return C.pcclOptimizeTopology(communicator.native)
	})
}

func (communicator *Communicator) attribute(which C.pcclAttribute_t) (int, error) {
	var value C.int
	err := communicator.do("pcclGetAttribute", func() C.pcclResult_t {
		return C.pcclGetAttribute(communicator.native, which, &value)
	})
	return int(value), err
}

// WorldSize is the members of this peer's group, as of now.
func (communicator *Communicator) WorldSize() (int, error) {
	return communicator.attribute(C.PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE)
}

// GlobalWorldSize is the peers in the run, all groups together.
func (communicator *Communicator) GlobalWorldSize() (int, error) {
	return communicator.attribute(C.PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE)
}

// DistinctPeerGroups is how many groups have a peer.
func (communicator *Communicator) DistinctPeerGroups() (int, error) {
	return communicator.attribute(C.PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS)
}

// LargestWorldSize is the peers in the group that has the most.
func (communicator *Communicator) LargestWorldSize() (int, error) {
	return communicator.attribute(C.PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE)
}

// Rank is this peer's place among the members of its group, from 0, and how many they are, as of now.
func (communicator *Communicator) Rank() (rank, worldSize int, err error) {
	var nativeRank, nativeSize C.uint32_t
	err = communicator.do("pcclGetRank", func() C.pcclResult_t {
		return C.pcclGetRank(communicator.native, &nativeRank, &nativeSize)
	})
	return int(nativeRank), int(nativeSize), err
}

// FreeErrorFeedback forgets what error feedback keeps under a tag.
func (communicator *Communicator) FreeErrorFeedback(tag uint64) error {
	return communicator.do("pcclFreeErrorFeedback", func() C.pcclResult_t {
		return C.pcclFreeErrorFeedback(communicator.native, C.uint64_t(tag))
	})
}

// Barrier waits until all members have called it with this tag.
func (communicator *Communicator) Barrier(tag uint64) error {
	return communicator.do("pcclBarrier", func() C.pcclResult_t {
		return C.pcclBarrier(C.uint64_t(tag), communicator.native, nil)
	})
}
