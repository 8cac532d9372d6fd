package pccl

// The package against a real master, whose address is in PCCL_TEST_MASTER. Peers of a case are goroutines of this process,
// in a group of their own, so that cases do not wait for each other.

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var nextGroup uint32 = 3000

func TestMain(m *testing.M) {
	if group := os.Getenv("PCCL_TEST_VICTIM_OF_GROUP"); group != "" {
		victim(group)
	}
	if os.Getenv("PCCL_TEST_MASTER") == "" {
		fmt.Fprintln(os.Stderr, "PCCL_TEST_MASTER names no master: see bindings/run-tests.sh")
		os.Exit(2)
	}
	os.Exit(m.Run())
}

func join(group uint32) (*Communicator, error) {
	communicator, err := NewCommunicator(Configuration{Master: os.Getenv("PCCL_TEST_MASTER"), PeerGroup: group})
	if err != nil {
		return nil, err
	}
	return communicator, communicator.Connect()
}

// untilTwo lets another in: its Connect returns where the last of these UpdateTopology does.
func untilTwo(communicator *Communicator) error {
	for {
		size, err := communicator.WorldSize()
		if err != nil || size == 2 {
			return err
		}
		if err := communicator.UpdateTopology(); err != nil {
			return err
		}
	}
}

// pair runs two members of a group of their own.
func pair(t *testing.T, body func(communicator *Communicator, i int) error) {
	t.Helper()
	group := atomic.AddUint32(&nextGroup, 1)
	failures := make(chan error, 2)
	for i := 0; i < 2; i++ {
		go func(i int) {
			communicator, err := join(group)
			if err == nil {
				err = untilTwo(communicator)
			}
			if err == nil {
				err = body(communicator, i)
			}
			if communicator != nil {
				communicator.Close()
			}
			failures <- err
		}(i)
	}
	for i := 0; i < 2; i++ {
		if err := <-failures; err != nil {
			t.Fatal(err)
		}
	}
}

// expect is an error unless the condition holds.
func expect(condition bool, format string, values ...any) error {
	if condition {
		return nil
	}
	return fmt.Errorf(format, values...)
}

// expectError is an error unless there was one with this code and text.
func expectError(err error, code Code, text string) error {
	return expect(errors.Is(err, code) && strings.Contains(err.Error(), text), "%v, instead of %q with %q", err, code, text)
}

func firstError(errors ...error) error {
	for _, err := range errors {
		if err != nil {
			return err
		}
	}
	return nil
}

func filled[T Element](count int, value T) []T {
	slice := make([]T, count)
	for i := range slice {
		slice[i] = value
	}
	return slice
}

func allAre[T Element](slice []T, value T) error {
	for i, element := range slice {
		if element != value {
			return fmt.Errorf("element %d is %v, not %v", i, element, value)
		}
	}
	return nil
}

func reduces[T Element](communicator *Communicator, i int) error {
	send, receive := filled(100, T(i+1)), make([]T, 100)
	info, err := AllReduceInto(communicator, send, receive, Sum)
	return firstError(err, allAre(send, T(i+1)), allAre(receive, T(3)),
		expect(info.WorldSize == 2 && info.SentBytes > 0 && len(info.Parts) == 0, "%+v", info))
}

type celsius float64

func TestAllReduceOfAllTypes(t *testing.T) {
	pair(t, func(communicator *Communicator, i int) error {
		ones := filled(3, BFloat16(0x3F80))
		_, err := AllReduce(communicator, ones, Sum)
		halves := filled(3, Float16(0x3C00))
		_, otherErr := AllReduce(communicator, halves, Sum)
		return firstError(err, otherErr, allAre(ones, 0x4000), allAre(halves, 0x4000),
			reduces[uint8](communicator, i), reduces[int8](communicator, i), reduces[uint16](communicator, i),
			reduces[int16](communicator, i), reduces[uint32](communicator, i), reduces[int32](communicator, i),
			reduces[uint64](communicator, i), reduces[int64](communicator, i), reduces[float32](communicator, i),
			reduces[float64](communicator, i), reduces[celsius](communicator, i))
	})
}

// What cgo would refuse if it looked at the whole of it.
func TestSliceOfAStructWithPointers(t *testing.T) {
	pair(t, func(communicator *Communicator, i int) error {
		layer := &struct {
			name    *string
			weights [10]float32
		}{name: new(string)}
		copy(layer.weights[:], filled(10, float32(i)))
		_, err := AllReduce(communicator, layer.weights[2:], Average)
		return firstError(err, allAre(layer.weights[:2], float32(i)), allAre(layer.weights[2:], 0.5))
	})
}

func TestAsynchronous(t *testing.T) {
	pair(t, func(communicator *Communicator, i int) error {
		var memories []*Memory[float32]
		var operations []*Operation
		for n := 0; n < 8; n++ {
			memory, err := Allocate[float32](1000)
			if err != nil {
				return err
			}
			defer memory.Free()
			copy(memory.Slice(), filled(1000, float32(i)))
			memories = append(memories, memory)
		}
		for n := range memories {
			// Each side in its own order: tags say what belongs together.
			tag := n
			if i == 1 {
				tag = len(memories) - 1 - n
			}
			operation, err := AllReduceAsync(communicator, memories[tag], Average, ReduceOptions{Tag: uint64(tag)})
			if err != nil {
				return err
			}
			operations = append(operations, operation)
		}
		early := firstError(expectError(communicator.UpdateTopology(), PendingAsyncOps, "in flight"),
			expectError(memories[0].Free(), InvalidUsage, "wait for it"))
		var waiting sync.WaitGroup
		for n := 0; n < 2; n++ { // the same outcome for all
			waiting.Add(1)
			go func() {
				operations[0].Wait()
				waiting.Done()
			}()
		}
		waiting.Wait()
		for _, operation := range operations {
			info, err := operation.Wait()
			if err := firstError(err, expect(info.WorldSize == 2, "%+v", info)); err != nil {
				return err
			}
		}
		for _, memory := range memories {
			if err := allAre(memory.Slice(), 0.5); err != nil {
				return err
			}
		}
		freed := memories[0]
		err := freed.Free()
		_, lentErr := AllReduceAsync(communicator, freed, Average)
		return firstError(early, err, freed.Free(), expectError(lentErr, InvalidArgument, "freed"), communicator.Barrier(99))
	})
}

func TestOperationOutlivesCommunicator(t *testing.T) {
	pair(t, func(communicator *Communicator, i int) error {
		if i == 1 {
			return communicator.Barrier(0)
		}
		memory, err := Allocate[float32](10)
		if err != nil {
			return err
		}
		operation, err := AllReduceAsync(communicator, memory, Sum, ReduceOptions{Tag: 5})
		if err := firstError(err, communicator.Barrier(0), communicator.Close(), communicator.Close()); err != nil {
			return err
		}
		_, waitErr := operation.Wait()
		_, sizeErr := communicator.WorldSize()
		return firstError(expectError(waitErr, InvalidUsage, "closed"), expectError(sizeErr, InvalidUsage, "closed"),
			memory.Free())
	})
}

func TestOptions(t *testing.T) {
	pair(t, func(communicator *Communicator, i int) error {
		values := filled(4096, float32(i))
		options := ReduceOptions{Codec: Int4Codec, ErrorFeedback: true, OnLoss: Resume}
		info, err := AllReduce(communicator, values, Average, options)
		_, integerErr := AllReduce(communicator, []int32{1, 2}, Sum, options)
		return firstError(err, expect(info.SentBytes < 4096, "%d bytes for 4096 codes", info.SentBytes),
			expect(len(info.Parts) == 1 && info.Parts[0] == ReducePart{0, 4096, 2}, "%+v", info.Parts),
			communicator.FreeErrorFeedback(0),
			expectError(communicator.FreeErrorFeedback(0), InvalidArgument, "pcclFreeErrorFeedback"),
			expectError(integerErr, InvalidArgument, "codecs"))
	})
}

func TestSeveralWithRetry(t *testing.T) {
	pair(t, func(communicator *Communicator, i int) error {
		a, errA := Allocate[float64](10)
		b, errB := Allocate[int32](20)
		if err := firstError(errA, errB); err != nil {
			return err
		}
		defer a.Free()
		defer b.Free()
		copy(a.Slice(), filled(10, float64(i)))
		copy(b.Slice(), filled(20, int32(i)))
		info, err := communicator.AllReduceMultipleWithRetry(
			[]Reduction{NewReduction(a, Average, 1), NewReduction(b, Maximum, 2)}, 2)
		_, retryErr := AllReduceWithRetry(communicator, a.Slice(), Sum)
		return firstError(err, retryErr, expect(info.WorldSize == 2, "%+v", info), allAre(a.Slice(), 1),
			allAre(b.Slice(), 1))
	})
}

func TestOtherCollectives(t *testing.T) {
	pair(t, func(communicator *Communicator, _ int) error {
		rank, worldSize, err := communicator.Rank()
		mine, all, block := filled(3, int32(rank+1)), make([]int32, 6), make([]int32, 3)
		_, gatherErr := AllGather(communicator, mine, all)
		if err := firstError(err, gatherErr, expect(worldSize == 2, "%d members", worldSize), allAre(all[:3], 1),
			allAre(all[3:], 2)); err != nil {
			return err
		}
		_, scatterErr := ReduceScatter(communicator, all, block, Sum, ReduceOptions{})
		if err := firstError(scatterErr, allAre(block, int32(2*(rank+1)))); err != nil {
			return err
		}
		_, broadcastErr := Broadcast(communicator, block, 1)
		_, roughErr := AllGather(communicator, mine, make([]int32, 5))
		return firstError(broadcastErr, allAre(block, 4), communicator.Barrier(7),
			expectError(roughErr, InvalidArgument, "5 elements"))
	})
}

func TestSharedState(t *testing.T) {
	pair(t, func(communicator *Communicator, i int) error {
		weights, errWeights := Allocate[float32](5000)
		own, errOwn := Allocate[uint8](4)
		if err := firstError(errWeights, errOwn); err != nil {
			return err
		}
		defer weights.Free()
		defer own.Free()
		copy(weights.Slice(), filled(5000, float32(i)))
		copy(own.Slice(), filled(4, uint8(i)))
		state, strategy := SharedState{}, ReceiveOnly
		if i == 0 {
			state.Revision, strategy = 7, SendOnly
		}
		AddEntry(&state, "weights", weights)
		AddEntry(&state, "own", own, EntryOptions{MayDiffer: true})
		info, err := communicator.Synchronize(&state, strategy)
		if err := firstError(err, expect((info.ReceivedBytes > 0) == (i == 1), "%+v", info),
			expect(state.Revision == 7, "revision %d", state.Revision), allAre(weights.Slice(), 0),
			allAre(own.Slice(), uint8(i))); err != nil {
			return err
		}
		state.Revision++
		if err := state.SetUnchanged("weights", true); err != nil {
			return err
		}
		info, err = communicator.Synchronize(&state, EnforcePopular)
		AddEntry(&state, "a\x00b", own)
		_, nulErr := communicator.Synchronize(&state, EnforcePopular)
		return firstError(err, expect(info.ReceivedBytes == 0, "%+v", info), expectError(nulErr, InvalidArgument, "NUL"),
			expectError(state.SetUnchanged("wieghts", true), InvalidArgument, "wieghts"))
	})
}

func TestJointCalls(t *testing.T) {
	pair(t, func(communicator *Communicator, _ int) error {
		isAnybodyWaiting, err := communicator.ArePeersPending()
		if err := firstError(err, expect(!isAnybodyWaiting, "who?"), communicator.OptimizeTopology(),
			communicator.UpdateTopology()); err != nil {
			return err
		}
		size, sizeErr := communicator.WorldSize()
		global, globalErr := communicator.GlobalWorldSize()
		groups, groupsErr := communicator.DistinctPeerGroups()
		largest, largestErr := communicator.LargestWorldSize()
		return firstError(sizeErr, globalErr, groupsErr, largestErr,
			expect(size == 2 && global >= 2 && groups >= 1 && largest >= 2, "%d %d %d %d", size, global, groups, largest),
			communicator.Barrier(0)) // nobody leaves before the other has looked
	})
}

func TestEnsembles(t *testing.T) {
	configuration := Configuration{Master: os.Getenv("PCCL_TEST_MASTER"), PeerGroup: atomic.AddUint32(&nextGroup, 1),
		Ensemble: &Ensemble{ID: 424242, Size: 1}}
	communicator, err := NewCommunicator(configuration)
	if err := firstError(err, communicator.Connect(), communicator.Close()); err != nil {
		t.Fatal(err)
	}
	configuration.Ensemble.Size = 0
	_, err = NewCommunicator(configuration)
	if err := expectError(err, InvalidArgument, "Ensemble"); err != nil {
		t.Fatal(err)
	}
}

func TestMismatchedPeers(t *testing.T) {
	pair(t, func(communicator *Communicator, i int) error {
		buffer := filled(10+i, float32(1))
		_, err := AllReduce(communicator, buffer, Sum)
		return firstError(expectError(err, InvalidArgument, "counts"), expectError(err, InvalidArgument, "tag 0"),
			allAre(buffer, 1))
	})
}

// victim is what another process does that is killed: three reductions, a line, and nothing more.
func victim(group string) {
	number, err := strconv.Atoi(group)
	if err != nil {
		panic(err)
	}
	communicator, err := join(uint32(number))
	if err != nil {
		panic(err)
	}
	for i := 0; i < 3; i++ {
		if _, err := AllReduce(communicator, filled(1000, float32(2)), Maximum); err != nil {
			panic(err)
		}
	}
	fmt.Println("ready")
	// The library's threads live on, so the runtime does not take this for a deadlock; it ends when it is killed.
	for {
		time.Sleep(time.Hour)
	}
}

func TestKilledPeer(t *testing.T) {
	group := atomic.AddUint32(&nextGroup, 1)
	communicator, err := join(group)
	if err != nil {
		t.Fatal(err)
	}
	defer communicator.Close()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), fmt.Sprintf("PCCL_TEST_VICTIM_OF_GROUP=%d", group))
	output, err := command.StdoutPipe()
	if err := firstError(err, command.Start()); err != nil {
		t.Fatal(err)
	}
	defer command.Wait()
	defer command.Process.Kill()
	if err := untilTwo(communicator); err != nil {
		t.Fatal(err)
	}
	buffer, err := Allocate[float32](1000)
	if err != nil {
		t.Fatal(err)
	}
	defer buffer.Free()
	for i := 0; i < 3; i++ {
		info, err := AllReduce(communicator, buffer.Slice(), Maximum)
		if err := firstError(err, expect(info.WorldSize == 2, "%+v", info)); err != nil {
			t.Fatal(err)
		}
	}
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}

	// The victim never enters this one, so it cannot end before the victim does.
	copy(buffer.Slice(), filled(1000, float32(5)))
	operation, err := AllReduceAsync(communicator, buffer, Sum)
	if err := firstError(err, command.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_, lostErr := operation.Wait()
	size, sizeErr := communicator.WorldSize()
	_, aloneErr := AllReduceWithRetry(communicator, buffer.Slice(), Sum)
	if err := firstError(expectError(lostErr, RankConnectionLost, "lost"), sizeErr, expect(size == 1, "size %d", size),
		allAre(buffer.Slice(), 5), expectError(aloneErr, TooFewPeers, "alone")); err != nil {
		t.Fatal(err)
	}

	newcomer := make(chan error, 1)
	go func() {
		other, err := join(group)
		if err == nil {
			_, err = AllReduce(other, filled(1000, float32(1)), Sum)
			other.Close()
		}
		newcomer <- err
	}()
	if err := untilTwo(communicator); err != nil {
		t.Fatal(err)
	}
	info, err := AllReduce(communicator, buffer.Slice(), Sum)
	if err := firstError(err, <-newcomer, expect(info.WorldSize == 2, "%+v", info), allAre(buffer.Slice(), 6)); err != nil {
		t.Fatal(err)
	}
}

func TestWrongArguments(t *testing.T) {
	for _, address := range []string{"", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:0", ":1",
		"127.0.0.1:65536", "no such host:1"} {
		_, err := NewCommunicator(Configuration{Master: address})
		if err := expectError(err, InvalidArgument, address); err != nil {
			t.Error(err)
		}
	}
	communicator, err := NewCommunicator(Configuration{
		Master: os.Getenv("PCCL_TEST_MASTER"), PeerGroup: atomic.AddUint32(&nextGroup, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer communicator.Close()
	_, sizeErr := communicator.WorldSize()
	err = communicator.Connect()
	connectErr := communicator.Connect()
	_, aloneErr := AllReduce(communicator, make([]float32, 4), Sum)
	_, lengthErr := AllReduceInto(communicator, make([]float32, 4), make([]float32, 3), Sum)
	_, emptyErr := AllReduce(communicator, []float32{}, Sum)
	_, noneErr := communicator.AllReduceMultipleWithRetry(nil, 1)
	_, memoryErr := Allocate[float32](0)
	if err := firstError(err, expectError(sizeErr, InvalidUsage, "pcclGetAttribute"),
		expectError(connectErr, InvalidUsage, "connected already"), expectError(aloneErr, TooFewPeers, "alone"),
		expectError(lengthErr, InvalidArgument, "4 elements to send, and room for 3"),
		expectError(emptyErr, InvalidArgument, "no elements"), expectError(noneErr, InvalidArgument, "nothing"),
		expectError(memoryErr, InvalidArgument, "at least 1")); err != nil {
		t.Fatal(err)
	}
}

func TestMasters(t *testing.T) {
	taken, err := NewMaster(os.Getenv("PCCL_TEST_MASTER"))
	if err != nil {
		t.Fatal(err)
	}
	if err := firstError(expectError(taken.Interrupt(), InvalidUsage, "pcclInterruptMaster"),
		expectError(taken.Run(), InvalidUsage, os.Getenv("PCCL_TEST_MASTER")), taken.Close(), taken.Close(),
		expectError(taken.Run(), InvalidUsage, "closed")); err != nil {
		t.Fatal(err)
	}

	// A port that was free a moment ago: somebody else may have it now, which is no fault of ours.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	master, err := NewMaster(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := master.Run(); err != nil {
		t.Skip(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- master.AwaitTermination() }()
	communicator, err := NewCommunicator(Configuration{Master: address})
	if err := firstError(err, communicator.Connect(), communicator.Close(), master.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil && !errors.Is(err, InvalidUsage) { // closed before it waited
		t.Fatal(err)
	}
}
