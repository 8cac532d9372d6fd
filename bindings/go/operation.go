package pccl

/*
#include <pccl_ext.h>
*/
import "C"

import "sync"

// Operation is an asynchronous all-reduce. It has its buffers until Wait has returned, or its communicator is closed. An
// operation that nobody waits for keeps its tag and its buffers.
type Operation struct {
	communicator *Communicator
	handle       C.pcclAsyncReduceOp_t
	partsAtMost  int
	blocks       []*block

	once sync.Once
	info ReduceInfo
	err  error
}

// AllReduceAsync begins to reduce in place and returns. Operations in flight together have different tags.
func AllReduceAsync[T Element](
	communicator *Communicator, buffer *Memory[T], op Op, options ...ReduceOptions,
) (*Operation, error) {
	return AllReduceIntoAsync(communicator, buffer, buffer, op, options...)
}

// AllReduceIntoAsync begins to reduce from one buffer into another of the same length, or the same.
func AllReduceIntoAsync[T Element](
	communicator *Communicator, send, receive *Memory[T], op Op, options ...ReduceOptions,
) (*Operation, error) {
	const call = "pcclAllReduceAsync"
	if err := requireSameLength(call, send.count, receive.count); err != nil {
		return nil, err
	}
	chosen := first(options)
	operation := &Operation{
		communicator: communicator,
		partsAtMost:  chosen.partsAtMost(),
		blocks:       []*block{&send.block, &receive.block},
	}
	if err := communicator.enter(call); err != nil {
		return nil, err
	}
	defer communicator.leave()
	if err := lend(call, operation.blocks...); err != nil {
		return nil, err
	}
	native, descriptor := chosen.native(), reduceDescriptor[T](send.count, op, chosen.Tag)
	var handle C.pcclAsyncReduceOp_t
	result := C.pcclAllReduceAsyncWithOptions(send.start, receive.start, &descriptor, communicator.native, &native, &handle)
	if err := check(result, "%s (tag %d)", call, chosen.Tag); err != nil {
		giveBack(operation.blocks)
		return nil, err
	}
	operation.handle = handle
	communicator.lock.Lock()
	communicator.flying[operation] = struct{}{}
	communicator.lock.Unlock()
	return operation, nil
}

// Wait waits until it has ended, and tells its outcome. Any goroutine may, several, and again: they are told the same.
func (operation *Operation) Wait() (ReduceInfo, error) {
	operation.once.Do(func() { operation.info, operation.err = operation.land() })
	return operation.info, operation.err
}

func (operation *Operation) land() (ReduceInfo, error) {
	const call = "pcclAwaitAsyncReduceParts"
	communicator := operation.communicator
	if err := communicator.enter(call); err != nil {
		// Close gives the buffers back.
		return ReduceInfo{}, failure(InvalidUsage, call, "the communicator was closed, which has ended the operation")
	}
	defer communicator.leave()
	var info C.pcclReduceInfo_t
	var count C.size_t
	parts := make([]C.pcclReducePart_t, operation.partsAtMost+1)
	result := C.pcclAwaitAsyncReduceParts(&operation.handle, &info, &parts[0], C.size_t(operation.partsAtMost), &count)
	communicator.lock.Lock()
	delete(communicator.flying, operation)
	communicator.lock.Unlock()
	giveBack(operation.blocks)
	if err := check(result, "%s (tag %d)", call, operation.handle.tag); err != nil {
		return ReduceInfo{}, err
	}
	return infoOf(info, parts[:least(int(count), operation.partsAtMost)]), nil
}
