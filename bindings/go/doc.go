// Package pccl is fault-tolerant collective communication over TCP: peers that come and go average what they hold. It is a
// layer over the C API of libpccl, through cgo.
//
//	communicator, err := pccl.NewCommunicator(pccl.Configuration{Master: "master.example:48148"})
//	...
//	defer communicator.Close()
//	err = communicator.Connect() // returns when this peer is a member
//	...
//	info, err := pccl.AllReduce(communicator, gradient, pccl.Average) // a []float32, in place
//
// A run needs a master (the program pccl-master), and peers take turns: a join point (UpdateTopology), then collectives,
// the same at all members. A newcomer's Connect returns where the members' UpdateTopology does.
//
// # Memory
//
// Blocking calls take slices of Go memory, lend them while they run, and copy nothing. What the library goes on using
// after a call has returned, and what it is told by a table of pointers, must be memory that Go's garbage collector does
// not own, as the rules of cgo say: asynchronous operations, several reductions at once and shared states take a Memory,
// which Allocate makes.
//
// # Threads
//
// Any goroutine may call anything, several at once. A call that blocks holds its thread of the operating system.
// Close waits until no other goroutine is inside a call.
//
// # Errors
//
// What the library refuses or cannot do is an *Error, of which errors.Is tells the code:
//
//	if errors.Is(err, pccl.RankConnectionLost) { /* a peer died: call again */ }
//
// The reason for a single failure (which peer, which address) is a line on standard error; PCCL_LOG_LEVEL=INFO or DEBUG
// gives more.
package pccl
