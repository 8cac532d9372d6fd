package pccl

/*
#include <pccl_ext.h>

// A descriptor with its options would be a Go pointer in Go memory, which cgo forbids: they come apart, and are put
// together here.
static pcclCollectiveDescriptor_t described(const pcclCollectiveDescriptor_t *descriptor,
                                            const pcclReduceOptions_t *options) {
    pcclCollectiveDescriptor_t whole = *descriptor;
    whole.struct_size = sizeof whole;
    whole.options = options;
    return whole;
}

static pcclResult_t allGather(const void *send, void *receive, const pcclCollectiveDescriptor_t *descriptor,
                              const pcclReduceOptions_t *options, const pcclComm_t *communicator,
                              pcclReduceInfo_t *info) {
    pcclCollectiveDescriptor_t whole = described(descriptor, options);
    return pcclAllGather(send, receive, &whole, communicator, info);
}

static pcclResult_t reduceScatter(const void *send, void *receive, const pcclCollectiveDescriptor_t *descriptor,
                                  const pcclReduceOptions_t *options, const pcclComm_t *communicator,
                                  pcclReduceInfo_t *info) {
    pcclCollectiveDescriptor_t whole = described(descriptor, options);
    return pcclReduceScatter(send, receive, &whole, communicator, info);
}

static pcclResult_t broadcast(void *buffer, const pcclCollectiveDescriptor_t *descriptor,
                              const pcclReduceOptions_t *options, const pcclComm_t *communicator,
                              pcclReduceInfo_t *info) {
    pcclCollectiveDescriptor_t whole = described(descriptor, options);
    return pcclBroadcast(buffer, &whole, communicator, info);
}
*/
import "C"

import (
	"errors"
	"unsafe"
)

func reduceDescriptor[T Element](count int, op Op, tag uint64) C.pcclReduceDescriptor_t {
	descriptor := C.pcclReduceDescriptor_t{count: C.size_t(count), op: C.pcclRedOp_t(op), tag: C.uint64_t(tag)}
	descriptor.src_descriptor.datatype = dataTypeOf[T]()
	return descriptor
}

func collectiveDescriptor[T Element](count, worldSize int, tag uint64) C.pcclCollectiveDescriptor_t {
	return C.pcclCollectiveDescriptor_t{
		count: C.size_t(count), datatype: dataTypeOf[T](), world_size: C.uint32_t(worldSize), tag: C.uint64_t(tag),
	}
}

func requireSameLength(call string, send, receive int) error {
	if send != receive {
		return failure(InvalidArgument, call, "%d elements to send, and room for %d", send, receive)
	}
	return requireElements(call, send)
}

func requireElements(call string, count int) error {
	if count == 0 {
		return failure(InvalidArgument, call, "a buffer has no elements")
	}
	return nil
}

func blocks(call string, one, all int) (int, error) {
	if one == 0 || all == 0 || all%one != 0 {
		return 0, failure(InvalidArgument, call,
			"a buffer of %d elements does not have a block for each peer, of %d elements each", all, one)
	}
	return all / one, nil
}

// AllReduce reduces in place, and blocks until the result is there. After an error the buffer has its input again.
func AllReduce[T Element](communicator *Communicator, buffer []T, op Op, options ...ReduceOptions) (ReduceInfo, error) {
	return AllReduceInto(communicator, buffer, buffer, op, options...)
}

// AllReduceInto reduces from one slice into another of the same length, which is undefined after an error. They are the
// same or do not overlap.
func AllReduceInto[T Element](
	communicator *Communicator, send, receive []T, op Op, options ...ReduceOptions,
) (ReduceInfo, error) {
	const call = "pcclAllReduce"
	if err := requireSameLength(call, len(send), len(receive)); err != nil {
		return ReduceInfo{}, err
	}
	if err := communicator.enter(call); err != nil {
		return ReduceInfo{}, err
	}
	defer communicator.leave()
	chosen := first(options)
	native, descriptor := chosen.native(), reduceDescriptor[T](len(send), op, chosen.Tag)
	var info C.pcclReduceInfo_t
	var count C.size_t
	parts := make([]C.pcclReducePart_t, chosen.partsAtMost()+1)
	// Slices are indexed in the call itself: then cgo looks at their elements only, not at what they are a part of.
	result := C.pcclAllReduceWithOptions(unsafe.Pointer(&send[0]), unsafe.Pointer(&receive[0]), &descriptor,
		communicator.native, &native, &info, &parts[0], C.size_t(chosen.partsAtMost()), &count)
	if err := check(result, "%s (tag %d)", call, chosen.Tag); err != nil {
		return ReduceInfo{}, err
	}
	return infoOf(info, parts[:least(int(count), chosen.partsAtMost())]), nil
}

func least(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// AllReduceWithRetry is AllReduce, again for as long as peers are lost in it: until it is a success, or this peer is alone
// (TooFewPeers).
func AllReduceWithRetry[T Element](
	communicator *Communicator, buffer []T, op Op, options ...ReduceOptions,
) (ReduceInfo, error) {
	for {
		info, err := AllReduce(communicator, buffer, op, options...)
		if !errors.Is(err, RankConnectionLost) {
			return info, err
		}
	}
}

// AllGather brings everybody's block to everybody: receive is as many blocks of send as there are peers, by rank. After
// RankConnectionLost ask for Rank again, and lay it out anew.
func AllGather[T Element](communicator *Communicator, send, receive []T, options ...ReduceOptions) (ReduceInfo, error) {
	const call = "pcclAllGather"
	worldSize, err := blocks(call, len(send), len(receive))
	if err != nil {
		return ReduceInfo{}, err
	}
	if err := communicator.enter(call); err != nil {
		return ReduceInfo{}, err
	}
	defer communicator.leave()
	chosen := first(options)
	native, descriptor := chosen.native(), collectiveDescriptor[T](len(send), worldSize, chosen.Tag)
	var info C.pcclReduceInfo_t
	result := C.allGather(unsafe.Pointer(&send[0]), unsafe.Pointer(&receive[0]), &descriptor, &native,
		communicator.native, &info)
	return infoOf(info, nil), check(result, "%s (tag %d)", call, chosen.Tag)
}

// ReduceScatter reduces everybody's blocks, and gives each peer that of its rank: send is as many blocks of receive as
// there are peers.
func ReduceScatter[T Element](
	communicator *Communicator, send, receive []T, op Op, options ...ReduceOptions,
) (ReduceInfo, error) {
	const call = "pcclReduceScatter"
	worldSize, err := blocks(call, len(receive), len(send))
	if err != nil {
		return ReduceInfo{}, err
	}
	if err := communicator.enter(call); err != nil {
		return ReduceInfo{}, err
	}
	defer communicator.leave()
	chosen := first(options)
	native, descriptor := chosen.native(), collectiveDescriptor[T](len(receive), worldSize, chosen.Tag)
	descriptor.op = C.pcclRedOp_t(op)
	var info C.pcclReduceInfo_t
	result := C.reduceScatter(unsafe.Pointer(&send[0]), unsafe.Pointer(&receive[0]), &descriptor, &native,
		communicator.native, &info)
	return infoOf(info, nil), check(result, "%s (tag %d)", call, chosen.Tag)
}

// Broadcast brings the buffer of the peer of rank root to all others.
func Broadcast[T Element](
	communicator *Communicator, buffer []T, root int, options ...ReduceOptions,
) (ReduceInfo, error) {
	const call = "pcclBroadcast"
	if err := requireElements(call, len(buffer)); err != nil {
		return ReduceInfo{}, err
	}
	if err := communicator.enter(call); err != nil {
		return ReduceInfo{}, err
	}
	defer communicator.leave()
	chosen := first(options)
	native, descriptor := chosen.native(), collectiveDescriptor[T](len(buffer), 0, chosen.Tag)
	descriptor.root = C.uint32_t(root)
	var info C.pcclReduceInfo_t
	result := C.broadcast(unsafe.Pointer(&buffer[0]), &descriptor, &native, communicator.native, &info)
	return infoOf(info, nil), check(result, "%s (tag %d)", call, chosen.Tag)
}

// Reduction is one of several, for AllReduceMultipleWithRetry. NewReduction makes it.
type Reduction struct {
	native C.pcclReduceOpDescriptor_t
	blocks []*block
}

// NewReduction is one in place. Each has a tag of its own.
func NewReduction[T Element](buffer *Memory[T], op Op, tag uint64) Reduction {
	reduction := Reduction{blocks: []*block{&buffer.block}}
	reduction.native.sendbuf, reduction.native.recvbuf = buffer.start, buffer.start
	reduction.native.descriptor = reduceDescriptor[T](buffer.count, op, tag)
	return reduction
}

// AllReduceMultipleWithRetry reduces several, maxInFlight at a time, whoever is lost meanwhile. The tag of the options is
// not looked at. After TooFewPeers what was not finished has its input.
func (communicator *Communicator) AllReduceMultipleWithRetry(
	reductions []Reduction, maxInFlight int, options ...ReduceOptions,
) (ReduceInfo, error) {
	const call = "pcclAllReduceMultipleWithOptions"
	if len(reductions) == 0 {
		return ReduceInfo{}, failure(InvalidArgument, call, "there is nothing to reduce")
	}
	var natives []C.pcclReduceOpDescriptor_t
	var lent []*block
	for _, reduction := range reductions {
		natives = append(natives, reduction.native)
		lent = append(lent, reduction.blocks...)
	}
	if err := lend(call, lent...); err != nil {
		return ReduceInfo{}, err
	}
	defer giveBack(lent)
	if err := communicator.enter(call); err != nil {
		return ReduceInfo{}, err
	}
	defer communicator.leave()
	native := first(options).native()
	var info C.pcclReduceInfo_t
	result := C.pcclAllReduceMultipleWithOptions(&natives[0], C.size_t(len(natives)), communicator.native, &native, &info,
		C.int(maxInFlight))
	return infoOf(info, nil), check(result, "%s", call)
}
