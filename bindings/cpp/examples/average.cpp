// A peer that averages a vector with whoever else is in the run, and keeps a shared state with them, while peers come
// and go. `average MASTER STEPS VALUE`; 0 steps: for ever.
#include <pccl.hpp>

#include <chrono>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

static void run(const char *master, long steps, float value) {
    pccl::Communicator communicator({master});
    communicator.connect();

    std::vector<float> weights(1024, value), gradient(1024);
    pccl::SharedState state;
    state.add("weights", weights);

    // connect has brought us to where the others leave their join point: our first turn begins without one.
    bool justJoined = true;
    for (long done = 0; steps == 0 || done < steps;) {
        if (!justJoined)
            communicator.updateTopology();
        justJoined = false;
        if (communicator.worldSize() < 2) {
            // Alone: somebody may join at the next join point. There is no hurry to ask again.
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            continue;
        }
        const pccl::SyncInfo sync = communicator.synchronizeSharedState(state);
        if (sync.receivedBytes > 0)
            std::cout << "received the weights of step " << state.revision << std::endl;
        state.revision++;

        std::fill(gradient.begin(), gradient.end(), value);
        try {
            const pccl::ReduceInfo info = communicator.allReduce(gradient, pcclAvg);
            for (std::size_t i = 0; i < weights.size(); i++)
                weights[i] += gradient[i];
            std::cout << "step " << state.revision << ": " << info.worldSize << " peers, average " << gradient[0]
                      << ", weight " << weights[0] << std::endl;
            done++;
        } catch (const pccl::RankConnectionLost &) {
            // The gradient is whole: the next turn does it again with those who are left.
            std::cout << "lost a peer" << std::endl;
        } catch (const pccl::TooFewPeers &) {
            std::cout << "alone" << std::endl;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        std::cerr << "usage: average MASTER STEPS VALUE\n";
        return 2;
    }
    try {
        run(argv[1], std::stol(argv[2]), std::stof(argv[3]));
    } catch (const std::exception &error) {
        std::cerr << "average: " << error.what() << "\n";
        return 1;
    }
}
