// Average is a peer that averages a vector with whoever else is in the run, and keeps a shared state with them, while peers
// come and go. `average MASTER STEPS VALUE`; 0 steps: for ever.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	pccl "swift-pccl/bindings/go"
)

func run(master string, steps int, value float32) error {
	communicator, err := pccl.NewCommunicator(pccl.Configuration{Master: master})
	if err != nil {
		return err
	}
	defer communicator.Close()
	if err := communicator.Connect(); err != nil {
		return err
	}

	gradient := make([]float32, 1024)
	memory, err := pccl.Allocate[float32](1024)
	if err != nil {
		return err
	}
	defer memory.Free()
	weights := memory.Slice()
	for i := range weights {
		weights[i] = value
	}
	var state pccl.SharedState
	pccl.AddEntry(&state, "weights", memory)

	// Connect has brought us to where the others leave their join point: our first turn begins without one.
	justJoined := true
	for done := 0; steps == 0 || done < steps; {
		if !justJoined {
			if err := communicator.UpdateTopology(); err != nil {
				return err
			}
		}
		justJoined = false
		worldSize, err := communicator.WorldSize()
		if err != nil {
			return err
		}
		if worldSize < 2 {
			// Alone: somebody may join at the next join point. There is no hurry to ask again.
			time.Sleep(20 * time.Millisecond)
			continue
		}
		sync, err := communicator.Synchronize(&state, pccl.EnforcePopular)
		if err != nil {
			return err
		}
		if sync.ReceivedBytes > 0 {
			fmt.Println("received the weights of step", state.Revision)
		}
		state.Revision++

		for i := range gradient {
			gradient[i] = value
		}
		info, err := pccl.AllReduce(communicator, gradient, pccl.Average)
		switch {
		case errors.Is(err, pccl.RankConnectionLost):
			// The gradient is whole: the next turn does it again with those who are left.
			fmt.Println("lost a peer")
		case errors.Is(err, pccl.TooFewPeers):
			fmt.Println("alone")
		case err != nil:
			return err
		default:
			for i := range weights {
				weights[i] += gradient[i]
			}
			fmt.Printf("step %d: %d peers, average %v, weight %v\n", state.Revision, info.WorldSize, gradient[0], weights[0])
			done++
		}
	}
	return nil
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: average MASTER STEPS VALUE")
		os.Exit(2)
	}
	steps, stepsError := strconv.Atoi(os.Args[2])
	value, valueError := strconv.ParseFloat(os.Args[3], 32)
	if stepsError != nil || valueError != nil {
		fmt.Fprintln(os.Stderr, "usage: average MASTER STEPS VALUE")
		os.Exit(2)
	}
	if err := run(os.Args[1], steps, float32(value)); err != nil {
		fmt.Fprintln(os.Stderr, "average:", err)
		os.Exit(1)
	}
}
