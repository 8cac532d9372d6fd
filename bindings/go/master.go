package pccl

/*
#include <pccl.h>
*/
import "C"

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Master is one inside this process. Most runs use the program pccl-master instead, which can be started again. It must be
// closed.
type Master struct {
	address string

	lock   sync.RWMutex // held for reading by calls, for writing by Close
	native *C.pcclMasterInstance_t
	hasRun atomic.Value // true once it has listened
}

// NewMaster does not open the port yet, which must not be 0.
func NewMaster(listen string) (*Master, error) {
	address, err := resolve(listen)
	if err != nil {
		return nil, err
	}
	master := &Master{address: listen}
	var native *C.pcclMasterInstance_t
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := check(C.pcclCreateMaster(address, &native), "pcclCreateMaster"); err != nil {
		return nil, err
	}
	master.native = native
	return master, nil
}

func (master *Master) do(call string, body func() C.pcclResult_t) error {
	master.lock.RLock()
	defer master.lock.RUnlock()
	if master.native == nil {
		return failure(InvalidUsage, call, "the master is closed")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return check(body(), "%s", call)
}

// Run listens, on a thread of its own, and returns at once. InvalidUsage when the port is in use.
func (master *Master) Run() error {
	err := master.do("pcclRunMaster at "+master.address, func() C.pcclResult_t { return C.pcclRunMaster(master.native) })
	if err == nil {
		master.hasRun.Store(true)
	}
	return err
}

// Interrupt asks it to end. From any goroutine.
func (master *Master) Interrupt() error {
	return master.do("pcclInterruptMaster", func() C.pcclResult_t { return C.pcclInterruptMaster(master.native) })
}

// AwaitTermination blocks until it has ended.
func (master *Master) AwaitTermination() error {
	return master.do("pcclMasterAwaitTermination", func() C.pcclResult_t {
		return C.pcclMasterAwaitTermination(master.native)
	})
}

// Close ends it, if it runs, and frees it. May be repeated.
func (master *Master) Close() error {
	// Who waits in AwaitTermination holds the lock until it has ended.
	if master.hasRun.Load() != nil {
		_ = master.Interrupt() // fails only if it was closed before
	}
	master.lock.Lock()
	defer master.lock.Unlock()
	if master.native == nil {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := check(C.pcclDestroyMaster(master.native), "pcclDestroyMaster")
	master.native = nil
	return err
}
