package pccl

/*
#include <stdlib.h>
*/
import "C"

import (
	"sync"
	"unsafe"
)

// Memory is elements that Go's garbage collector does not own, so that the library may go on using them when a call has
// returned. It lives until Free, not until nobody refers to it.
type Memory[T Element] struct {
	block
}

// block is what a Memory is without its type.
type block struct {
	lock  sync.Mutex
	start unsafe.Pointer // null once it is freed
	count int
	lent  int // to how many operations and calls
}

// Allocate makes a Memory of zeros. Its owner calls Free.
func Allocate[T Element](count int) (*Memory[T], error) {
	if count < 1 {
		return nil, failure(InvalidArgument, "Allocate", "%d elements; at least 1 is needed", count)
	}
	var zero T
	start := C.calloc(C.size_t(count), C.size_t(unsafe.Sizeof(zero)))
	if start == nil {
		return nil, failure(InternalError, "Allocate", "no memory for %d elements", count)
	}
	return &Memory[T]{block{start: start, count: count}}, nil
}

// Slice is the elements. It is dead once Free was called, and must not be written (of a result: nor read) while an
// operation has it. Nil when it was freed.
func (memory *Memory[T]) Slice() []T {
	memory.lock.Lock()
	defer memory.lock.Unlock()
	if memory.start == nil {
		return nil
	}
	return unsafe.Slice((*T)(memory.start), memory.count)
}

// Len is how many elements there are.
func (memory *Memory[T]) Len() int { return memory.count }

// Free gives the memory back. InvalidUsage, and nothing is done, while an operation has it. May be repeated.
func (memory *Memory[T]) Free() error {
	memory.lock.Lock()
	defer memory.lock.Unlock()
	if memory.lent > 0 {
		return failure(InvalidUsage, "Free", "an operation has this memory; wait for it first")
	}
	C.free(memory.start)
	memory.start = nil
	return nil
}

// lend keeps blocks from being freed; all of them or, with an error, none.
func lend(call string, blocks ...*block) error {
	for i, block := range blocks {
		block.lock.Lock()
		isFreed := block.start == nil
		if !isFreed {
			block.lent++
		}
		block.lock.Unlock()
		if isFreed {
			giveBack(blocks[:i])
			return failure(InvalidArgument, call, "a buffer's memory was freed")
		}
	}
	return nil
}

func giveBack(blocks []*block) {
	for _, block := range blocks {
		block.lock.Lock()
		block.lent--
		block.lock.Unlock()
	}
}
