package pccl

/*
#include <pccl_ext.h>
#include <stdlib.h>

// The table comes apart from what points to it, as cgo wants no Go pointer in Go memory.
static pcclResult_t synchronize(const pcclComm_t *communicator, uint64_t *revision, pcclTensorInfo_t *infos, size_t count,
                                pcclSharedStateSyncStrategy_t strategy, const bool *unchanged,
                                pcclSharedStateSyncInfo_t *info) {
    pcclSharedState_t state = {*revision, count, infos};
    pcclSyncOptions_t options = {sizeof options, unchanged};
    pcclResult_t result = pcclSynchronizeSharedStateWithOptions(communicator, &state, strategy, &options, info);
    *revision = state.revision;
    return result;
}
*/
import "C"

import (
	"strings"
	"unsafe"
)

// Strategy is what a member is willing to do in a synchronisation: pcclSharedStateSyncStrategy_t.
type Strategy int

const (
	// EnforcePopular: all end with the content that most members hold. All members must say the same.
	EnforcePopular Strategy = C.PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR
	// ReceiveOnly: only take.
	ReceiveOnly Strategy = C.PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY
	// SendOnly: only give; this content must be the elected one.
	SendOnly Strategy = C.PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY
)

// EntryOptions is how peers treat an entry of a shared state.
type EntryOptions struct {
	// MayDiffer: peers may hold different values. It is neither compared nor sent on its own.
	MayDiffer bool
	// IsUnchanged is the caller's word that nobody has written it since the last synchronisation. It is believed.
	IsUnchanged bool
}

// SharedState is the tensors that all members of a group hold alike. Entries are added with AddEntry.
type SharedState struct {
	// Revision goes up by one from synchronisation to synchronisation; it is written where this peer was behind.
	Revision uint64
	entries  []entry
}

type entry struct {
	name     string
	block    *block
	dataType C.pcclDataType_t
	options  EntryOptions
}

// AddEntry adds a tensor, under a name that is unique in the state.
func AddEntry[T Element](state *SharedState, name string, buffer *Memory[T], options ...EntryOptions) {
	added := entry{name: name, block: &buffer.block, dataType: dataTypeOf[T]()}
	if len(options) > 0 {
		added.options = options[0]
	}
	state.entries = append(state.entries, added)
}

// SetUnchanged says of the entry of this name whether it was written since the last synchronisation.
func (state *SharedState) SetUnchanged(name string, isUnchanged bool) error {
	for i := range state.entries {
		if state.entries[i].name == name {
			state.entries[i].options.IsUnchanged = isUnchanged
			return nil
		}
	}
	return failure(InvalidArgument, "SetUnchanged", "the shared state has no entry %q", name)
}

// SyncInfo is what a synchronisation moved, of tensors and hashes.
type SyncInfo struct {
	SentBytes, ReceivedBytes uint64
}

// Synchronize brings all members to the same content, and the state's revision to the others'. Joint.
func (communicator *Communicator) Synchronize(state *SharedState, strategy Strategy) (SyncInfo, error) {
	const call = "pcclSynchronizeSharedState"
	var lent []*block
	for _, entry := range state.entries {
		lent = append(lent, entry.block)
	}
	if err := lend(call, lent...); err != nil {
		return SyncInfo{}, err
	}
	defer giveBack(lent)
	// One more than there are entries, so that there is a first of each.
	infos := make([]C.pcclTensorInfo_t, len(state.entries)+1)
	unchanged := make([]C.bool, len(state.entries)+1)
	for i, entry := range state.entries {
		if strings.ContainsRune(entry.name, 0) {
			return SyncInfo{}, failure(InvalidArgument, call, "the name %q has a NUL in it", entry.name)
		}
		name := C.CString(entry.name)
		defer C.free(unsafe.Pointer(name))
		infos[i] = C.pcclTensorInfo_t{
			name: name, data: entry.block.start, count: C.size_t(entry.block.count), datatype: entry.dataType,
			allow_content_inequality: C.bool(entry.options.MayDiffer),
		}
		unchanged[i] = C.bool(entry.options.IsUnchanged)
	}
	if err := communicator.enter(call); err != nil {
		return SyncInfo{}, err
	}
	defer communicator.leave()
	revision := C.uint64_t(state.Revision)
	var info C.pcclSharedStateSyncInfo_t
	result := C.synchronize(communicator.native, &revision, &infos[0], C.size_t(len(state.entries)),
		C.pcclSharedStateSyncStrategy_t(strategy), &unchanged[0], &info)
	if err := check(result, "%s (revision %d)", call, state.Revision); err != nil {
		return SyncInfo{}, err
	}
	state.Revision = uint64(revision)
	return SyncInfo{SentBytes: uint64(info.tx_bytes), ReceivedBytes: uint64(info.rx_bytes)}, nil
}
