// The wrapper against a real master, whose address is the argument: peers of a case are threads of this process, in a
// group of their own, so that cases do not wait for each other. Prints "ok NAME" or "FAILED NAME: why" for each.
#include <pccl.hpp>

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <exception>
#include <functional>
#include <iostream>
#include <numeric>
#include <thread>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            throw std::runtime_error(std::string("line ") + std::to_string(__LINE__) + ": " #condition);               \
    } while (0)

static std::string master;
static std::uint32_t nextGroup = 1000;

/** What a call throws of this type; a failure if it does not. */
template <class Expected> static std::string thrown(const std::function<void()> &call) {
    try {
        call();
    } catch (const Expected &error) {
        return error.what();
    }
    throw std::runtime_error("nothing was thrown");
}

static bool has(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

/** Two members of a group of their own, each on a thread. */
static void pair(const std::function<void(pccl::Communicator &, int)> &body) {
    const std::uint32_t group = nextGroup++;
    std::array<std::exception_ptr, 2> failures;
    std::array<std::thread, 2> threads;
    for (int i = 0; i < 2; i++) {
        threads[i] = std::thread([&, i] {
            try {
                pccl::Communicator communicator({master, group});
                communicator.connect();
                // Whoever was first lets the other in: its connect returns where this updateTopology does.
                while (communicator.worldSize() < 2)
                    communicator.updateTopology();
                body(communicator, i);
            } catch (...) {
                failures[i] = std::current_exception();
            }
        });
    }
    for (std::thread &thread : threads)
        thread.join();
    for (const std::exception_ptr &failure : failures) {
        if (failure)
            std::rethrow_exception(failure);
    }
}

template <class Element> static void reduceType() {
    pair([](pccl::Communicator &communicator, int i) {
        const std::vector<Element> send(100, static_cast<Element>(i + 1));
        std::vector<Element> receive(100);
        const pccl::ReduceInfo info = communicator.allReduce(send, receive, pcclSum);
        CHECK(info.worldSize == 2 && info.sentBytes > 0 && info.parts.empty());
        for (Element element : receive)
            CHECK(element == static_cast<Element>(3));
    });
}

static void types() {
    reduceType<std::uint8_t>();
    reduceType<std::int16_t>();
    reduceType<long>();
    reduceType<unsigned long long>();
    reduceType<double>();
    static_assert(pccl::DataType<char>::value == pcclInt8 || pccl::DataType<char>::value == pcclUint8);
    static_assert(pccl::DataType<std::uint16_t>::value == pcclUint16);
    static_assert(pccl::DataType<pccl::BFloat16>::value == pcclBFloat16);
    pair([](pccl::Communicator &communicator, int) {
        std::array<pccl::BFloat16, 3> ones;
        ones.fill({0x3F80});
        communicator.allReduce(ones, pcclSum);
        CHECK(ones[2].bits == 0x4000);
    });
}

static void asynchronous() {
    pair([](pccl::Communicator &communicator, int i) {
        std::vector<std::vector<float>> buffers(8, std::vector<float>(1000, static_cast<float>(i)));
        std::vector<pccl::Operation> operations;
        for (std::size_t n = 0; n < buffers.size(); n++) {
            // Each side in its own order: tags say what belongs together.
            const std::size_t tag = i == 0 ? n : buffers.size() - 1 - n;
            pccl::ReduceOptions options;
            options.tag = tag;
            operations.push_back(communicator.allReduceAsync(buffers[tag], pcclAvg, options));
        }
        CHECK(has(thrown<pccl::PendingAsyncOps>([&] { communicator.updateTopology(); }), "in flight"));
        operations[0].wait();
        CHECK(!operations[0].isPending());
        thrown<pccl::InvalidUsage>([&] { operations[0].wait(); });
        operations.clear();
        for (const std::vector<float> &buffer : buffers)
            CHECK(buffer.front() == 0.5f && buffer.back() == 0.5f);
        communicator.barrier();
    });
}

static void operationOutlivesCommunicator() {
    pair([](pccl::Communicator &communicator, int i) {
        if (i == 1) {
            communicator.barrier();
            return;
        }
        std::vector<float> buffer(10);
        pccl::ReduceOptions options;
        options.tag = 5;
        std::vector<pccl::Operation> kept;
        kept.push_back(communicator.allReduceAsync(buffer, pcclSum, options));
        communicator.barrier();
        communicator.close();
        CHECK(has(thrown<pccl::InvalidUsage>([&] { kept[0].wait(); }), "closed"));
        CHECK(has(thrown<pccl::InvalidUsage>([&] { communicator.worldSize(); }), "closed"));
    });
}

static void options() {
    pair([](pccl::Communicator &communicator, int i) {
        std::vector<float> values(4096);
        std::iota(values.begin(), values.end(), static_cast<float>(i));
        pccl::ReduceOptions options;
        options.quantization = {pcclUint8, pcclQuantMinMax};
        const pccl::ReduceInfo coded = communicator.allReduce(values, pcclAvg, options);
        CHECK(coded.sentBytes < values.size() * sizeof(float) / 2);
        CHECK(values[1000] > 990 && values[1000] < 1010);

        options = {};
        options.codec = pcclCodecInt4;
        options.errorFeedback = true;
        options.onLoss = pcclOnLossResume;
        const pccl::ReduceInfo info = communicator.allReduce(values, pcclAvg, options);
        CHECK(info.parts.size() == 1 && info.parts[0].world_size == 2 && info.parts[0].element_count == values.size());
        communicator.freeErrorFeedback(0);
        CHECK(has(thrown<pccl::InvalidArgument>([&] { communicator.freeErrorFeedback(0); }), "pcclFreeErrorFeedback"));
    });
}

static void several() {
    pair([](pccl::Communicator &communicator, int i) {
        std::vector<double> a(10, i), b(20, i);
        std::vector<std::int32_t> c(30, i + 1), result(30);
        const std::vector<pccl::Reduction> reductions = {pccl::reduction(a, pcclSum, 1), pccl::reduction(b, pcclAvg, 2),
                                                         pccl::reduction(c, result, pcclMax, 3)};
        CHECK(communicator.allReduceMultipleWithRetry(reductions, 2).worldSize == 2);
        CHECK(a[9] == 1 && b[19] == 0.5 && result[29] == 2 && c[0] == i + 1);
        CHECK(communicator.allReduceWithRetry(a, pcclSum).worldSize == 2);
        CHECK(a[0] == 2);
    });
}

static void otherCollectives() {
    pair([](pccl::Communicator &communicator, int) {
        const auto [rank, worldSize] = communicator.place();
        CHECK(worldSize == 2);
        const std::vector<int> mine(3, static_cast<int>(rank) + 1);
        std::vector<int> all(6);
        communicator.allGather(mine, all);
        CHECK((all == std::vector<int>{1, 1, 1, 2, 2, 2}));

        std::vector<int> block(3);
        communicator.reduceScatter(all, block, pcclSum);
        CHECK(block[0] == (rank == 0 ? 2 : 4));

        communicator.broadcast(block, 1);
        CHECK(block[0] == 4);
        communicator.barrier(7);

        pccl::ReduceOptions second;
        second.tag = 1;
        pccl::Operation gather = communicator.allGatherAsync(mine, all);
        pccl::Operation broadcast = communicator.broadcastAsync(block, 0, second);
        broadcast.wait();
        gather.wait();

        CHECK(has(thrown<pccl::InvalidArgument>([&] { communicator.allGather(mine, block = std::vector<int>(5)); }),
                  "5 elements"));
    });
}

static void sharedState() {
    pair([](pccl::Communicator &communicator, int i) {
        std::vector<float> weights(5000, static_cast<float>(i));
        std::array<std::uint8_t, 4> own{};
        own.fill(static_cast<std::uint8_t>(i));
        pccl::SharedState state;
        state.add("weights", weights).add("own", own, {/* mayDiffer */ true, false});
        const auto strategy = i == 0 ? PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY //
                                     : PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY;
        state.revision = i == 0 ? 7 : 0;
        const pccl::SyncInfo info = communicator.synchronizeSharedState(state, strategy);
        CHECK((info.receivedBytes > 0) == (i == 1));
        CHECK(state.revision == 7 && weights[4999] == 0 && own[3] == i);

        state.revision++;
        state.setUnchanged("weights", true);
        CHECK(communicator.synchronizeSharedState(state).receivedBytes == 0);
        CHECK(has(thrown<pccl::InvalidArgument>([&] { state.setUnchanged("wieghts", true); }), "wieghts"));
    });
}

static void jointCalls() {
    pair([](pccl::Communicator &communicator, int) {
        CHECK(!communicator.arePeersPending());
        communicator.optimizeTopology();
        communicator.updateTopology();
        CHECK(communicator.worldSize() == 2 && communicator.globalWorldSize() >= 2);
        CHECK(communicator.attribute(PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE) >= 2);
        // Nobody leaves before the other has looked.
        communicator.barrier();
    });
}

static void ensembles() {
    pccl::Communicator::Configuration configuration(master, nextGroup++);
    configuration.ensembleID = 42;
    configuration.ensembleSize = 1;
    pccl::Communicator communicator(configuration);
    communicator.connect();
    CHECK(communicator.worldSize() == 1);
    configuration.ensembleSize = 5000;
    CHECK(has(thrown<pccl::InvalidArgument>([&] { pccl::Communicator{configuration}; }), "Ensemble"));
}

static void mismatchedPeers() {
    pair([](pccl::Communicator &communicator, int i) {
        std::vector<float> buffer(10 + static_cast<std::size_t>(i), 1.0f);
        const std::string text = thrown<pccl::InvalidArgument>([&] { communicator.allReduce(buffer, pcclSum); });
        CHECK(has(text, "counts") && has(text, "tag 0"));
        CHECK(buffer[0] == 1.0f);
    });
}

/** What another process does that is killed: three reductions, a line, and nothing more. */
static int victim(std::uint32_t group) {
    pccl::Communicator communicator({master, group});
    communicator.connect();
    std::vector<float> buffer(1000, 2);
    for (int i = 0; i < 3; i++)
        communicator.allReduce(buffer, pcclMax);
    std::cout << "ready" << std::endl;
    for (;;)
        pause();
}

/** This program once more, as a victim. Killed with the block. */
class Victim {
  public:
    explicit Victim(std::uint32_t group) {
        int ends[2];
        CHECK(pipe(ends) == 0);
        const std::string number = std::to_string(group);
        process_ = fork();
        CHECK(process_ >= 0);
        if (process_ == 0) {
            dup2(ends[1], STDOUT_FILENO);
            execl("/proc/self/exe", "checks", master.c_str(), "victim", number.c_str(), nullptr);
            _exit(127);
        }
        close(ends[1]);
        output_ = ends[0];
    }
    ~Victim() {
        end();
        close(output_);
    }
    void waitUntilReady() {
        pollfd wanted{output_, POLLIN, 0};
        CHECK(poll(&wanted, 1, 20'000) == 1);
        char line[6] = {};
        CHECK(read(output_, line, 5) == 5 && std::string(line) == "ready");
    }
    void end() {
        if (process_ > 0) {
            kill(process_, SIGKILL);
            waitpid(process_, nullptr, 0);
        }
        process_ = 0;
    }

  private:
    pid_t process_;
    int output_;
};

static void killedPeer() {
    const std::uint32_t group = nextGroup++;
    pccl::Communicator communicator({master, group});
    communicator.connect();
    Victim victim(group);
    while (communicator.worldSize() < 2)
        communicator.updateTopology();
    std::vector<float> buffer(1000, 1);
    for (int i = 0; i < 3; i++)
        CHECK(communicator.allReduce(buffer, pcclMax).worldSize == 2);
    victim.waitUntilReady();

    // The victim never enters this one, so it cannot end before the victim does.
    std::fill(buffer.begin(), buffer.end(), 5.0f);
    pccl::Operation operation = communicator.allReduceAsync(buffer, pcclSum);
    victim.end();
    CHECK(has(thrown<pccl::RankConnectionLost>([&] { operation.wait(); }), "lost"));
    CHECK(buffer[999] == 5 && communicator.worldSize() == 1);
    thrown<pccl::TooFewPeers>([&] { communicator.allReduceWithRetry(buffer, pcclSum); });

    std::thread newcomer([&] {
        pccl::Communicator other({master, group});
        other.connect();
        std::vector<float> ones(1000, 1);
        other.allReduce(ones, pcclSum);
    });
    while (communicator.worldSize() < 2)
        communicator.updateTopology();
    const pccl::ReduceInfo info = communicator.allReduce(buffer, pcclSum);
    newcomer.join();
    CHECK(info.worldSize == 2 && buffer[0] == 6);
}

static void wrongArguments() {
    for (const char *address : {"", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:0", ":1",
                                "127.0.0.1:65536", "no such host:1"})
        CHECK(has(thrown<pccl::InvalidArgument>([&] { pccl::Address{address}; }), address));
    CHECK(pccl::Address("[::1]:48148").value().inet.protocol == inetIPv6);

    pccl::Communicator communicator({master, nextGroup++});
    thrown<pccl::InvalidUsage>([&] { communicator.worldSize(); });
    communicator.connect();
    CHECK(has(thrown<pccl::InvalidUsage>([&] { communicator.connect(); }), "connected already"));
    std::vector<float> buffer(4), shorter(3);
    CHECK(has(thrown<pccl::TooFewPeers>([&] { communicator.allReduce(buffer, pcclSum); }), "alone"));
    CHECK(has(thrown<pccl::InvalidArgument>([&] { communicator.allReduce(buffer, shorter, pcclSum); }),
              "4 elements to send, and room for 3"));
    std::vector<float> none;
    thrown<pccl::Error>([&] { communicator.allReduce(none, pcclSum); });

    pccl::Communicator moved = std::move(communicator);
    CHECK(moved.worldSize() == 1);
    CHECK(has(thrown<pccl::InvalidUsage>([&] { communicator.worldSize(); }), "closed"));
    moved.close();
    moved.close();
}

static void masters() {
    pccl::Address address(master);
    pccl::Master taken(address);
    CHECK(has(thrown<pccl::InvalidUsage>([&] { taken.interrupt(); }), "pcclInterruptMaster"));
    CHECK(has(thrown<pccl::InvalidUsage>([&] { taken.run(); }), master));
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 4) {
        std::cerr << "usage: checks MASTER [victim GROUP]\n";
        return 2;
    }
    master = argv[1];
    if (argc == 4)
        return victim(static_cast<std::uint32_t>(std::stoul(argv[3])));
    const std::pair<const char *, void (*)()> cases[] = {
        {"types", types},
        {"asynchronous", asynchronous},
        {"operation outlives communicator", operationOutlivesCommunicator},
        {"options", options},
        {"several with retry", several},
        {"other collectives", otherCollectives},
        {"shared state", sharedState},
        {"joint calls", jointCalls},
        {"ensembles", ensembles},
        {"killed peer", killedPeer},
        {"mismatched peers", mismatchedPeers},
        {"wrong arguments", wrongArguments},
        {"masters", masters},
    };
    bool failed = false;
    for (const auto &[name, body] : cases) {
        try {
            body();
            std::cout << "ok " << name << std::endl;
        } catch (const std::exception &error) {
            std::cout << "FAILED " << name << ": " << error.what() << std::endl;
            failed = true;
        }
    }
    return failed ? 1 : 0;
}
