// What must not compile: with -DCASE=1 to 4, each for one reason. Without, it does.
#include <pccl.hpp>

void refused(pccl::Communicator &communicator) {
    std::vector<float> buffer(4);
    const std::vector<float> constant(4);
    std::vector<double> doubles(4);
    (void)constant, (void)doubles;
#if CASE == 1
    pccl::Operation operation = communicator.allReduceAsync(std::vector<float>(4), pcclSum); // give it a name
#elif CASE == 2
    communicator.allReduce(constant, pcclSum); // which is const
#elif CASE == 3
    communicator.allReduce(buffer, doubles, pcclSum); // the same element type
#elif CASE == 4
    pccl::SharedState().add("weights", std::vector<float>(4)); // give it a name
#else
    pccl::Operation operation = communicator.allReduceAsync(pccl::Span<float>(buffer.data(), 4), pcclSum);
    pccl::SharedState().add("weights", pccl::span(buffer)).add("doubles", doubles);
#if __cplusplus >= 202002L
    operation = communicator.allReduceAsync(std::span<const float>(constant), std::span<float>(buffer), pcclSum);
#endif
#endif
}
