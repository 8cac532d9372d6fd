// What must not compile: with -DCASE=1 to 3, each for one reason. Without, it does.
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
#else
    pccl::Operation operation = communicator.allReduceAsync(pccl::Span<float>(buffer.data(), 4), pcclSum);
#endif
}
