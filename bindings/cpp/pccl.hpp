/*
 * The PCCL C API for C++17: objects that end what they have begun, buffers with types, errors as exceptions.
 *
 *     pccl::Communicator communicator({"master.example:48148"});
 *     communicator.connect();
 *     pccl::ReduceInfo info = communicator.allReduce(gradient, pcclAvg);    // std::vector<float>, in place
 *
 * A thin layer: each function makes the call of pccl.h or pccl_ext.h that its comment names, and what stands there of
 * results, joint calls and turns holds here too. Only this header and libpccl are needed.
 *
 * - Errors. Whatever is not pcclSuccess is thrown as a pccl::Error, of a type of its own for each code.
 * - Ownership. Buffers are lent, never copied: for a blocking call while it runs, for an asynchronous one until its
 *   Operation has been waited for or destroyed.
 * - Threads. Any thread may call any const function at any time. Destroying, moving or closing an object wants it
 * alone.
 */
#ifndef PCCL_HPP
#define PCCL_HPP

#include <pccl.h>
#include <pccl_ext.h>

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#if __cplusplus >= 202002L
#include <span>
#endif

namespace pccl {

// ---------------------------------------------------------------------------------------------------------------------
// Errors
// ---------------------------------------------------------------------------------------------------------------------

/** The name of a code, as pccl.h writes it. */
inline const char *nameOf(pcclResult_t code) noexcept {
    switch (code) {
    case pcclSuccess:
        return "pcclSuccess";
    case pcclNotInitialized:
        return "pcclNotInitialized";
    case pcclInternalError:
        return "pcclInternalError";
    case pcclInvalidArgument:
        return "pcclInvalidArgument";
    case pcclInvalidUsage:
        return "pcclInvalidUsage";
    case pcclTooFewPeers:
        return "pcclTooFewPeers";
    case pcclMasterConnectionFailed:
        return "pcclMasterConnectionFailed";
    case pcclRankConnectionFailed:
        return "pcclRankConnectionFailed";
    case pcclRankConnectionLost:
        return "pcclRankConnectionLost";
    case pcclNoSharedStateAvailable:
        return "pcclNoSharedStateAvailable";
    case pcclPendingAsyncOps:
        return "pcclPendingAsyncOps";
    case pcclUpdateTopologyFailed:
        return "pcclUpdateTopologyFailed";
    case pcclTopologyOptimizationFailed:
        return "pcclTopologyOptimizationFailed";
    }
    return "an unknown result";
}

/** What a code means, and what to do next. The C API tells the reason of a single failure in its log only. */
inline const char *meaningOf(pcclResult_t code) noexcept {
    switch (code) {
    case pcclSuccess:
        return "done";
    case pcclNotInitialized:
        return "the library is not initialised; pcclInit comes first";
    case pcclInternalError:
        return "a fault of the library, or no memory or threads to be had; destroy the communicator";
    case pcclInvalidArgument:
        return "an argument was refused, or the peers' counts, types, operations or codecs for this tag differ";
    case pcclInvalidUsage:
        return "not allowed now: not connected, connected already, or peers are in different calls";
    case pcclTooFewPeers:
        return "this peer is alone in its group; call updateTopology until another is admitted";
    case pcclMasterConnectionFailed:
        return "the master cannot be reached, refused this peer or has evicted it; connect may be called again";
    case pcclRankConnectionFailed:
        return "another peer cannot be reached";
    case pcclRankConnectionLost:
        return "a peer was lost during the operation; what was sent is whole and the world size is new: call again";
    case pcclNoSharedStateAvailable:
        return "no peer can give the shared state with the revision that is due";
    case pcclPendingAsyncOps:
        return "operations are in flight; wait for them first";
    case pcclUpdateTopologyFailed:
        return "the join point failed: this peer was evicted, or the master stayed away; make a new communicator";
    case pcclTopologyOptimizationFailed:
        return "the topology could not be optimised; wait for all operations, or make a new communicator";
    }
    return "this header does not know it";
}

/** What a call came to that is not pcclSuccess. what() names the call, what happened and what to do next. */
class Error : public std::runtime_error {
  public:
    Error(pcclResult_t code, const std::string &text)
        : std::runtime_error(text + " [" + nameOf(code) + "]"), code_(code) {}

    pcclResult_t code() const noexcept { return code_; }

  private:
    pcclResult_t code_;
};

/** An error that can be caught by its code: `catch (const pccl::RankConnectionLost &)`. */
template <pcclResult_t Code> class ErrorOf : public Error {
  public:
    explicit ErrorOf(const std::string &text) : Error(Code, text) {}
};

using NotInitialized = ErrorOf<pcclNotInitialized>;
using InternalError = ErrorOf<pcclInternalError>;
using InvalidArgument = ErrorOf<pcclInvalidArgument>;
using InvalidUsage = ErrorOf<pcclInvalidUsage>;
using TooFewPeers = ErrorOf<pcclTooFewPeers>;
using MasterConnectionFailed = ErrorOf<pcclMasterConnectionFailed>;
using RankConnectionFailed = ErrorOf<pcclRankConnectionFailed>;
using RankConnectionLost = ErrorOf<pcclRankConnectionLost>;
using NoSharedStateAvailable = ErrorOf<pcclNoSharedStateAvailable>;
using PendingAsyncOps = ErrorOf<pcclPendingAsyncOps>;
using UpdateTopologyFailed = ErrorOf<pcclUpdateTopologyFailed>;
using TopologyOptimizationFailed = ErrorOf<pcclTopologyOptimizationFailed>;

/** Throws what belongs to a code, unless it is pcclSuccess. For calls of the C API made beside this header, by the
 * thread that has made them: what() has the reason that the library gives it. */
inline void check(pcclResult_t code, const std::string &call) {
    if (code == pcclSuccess)
        return;
    const char *reason = nullptr;
    std::string text = call + ": " + meaningOf(code);
    if (pcclGetErrorText(&reason) == pcclSuccess && reason != nullptr && *reason != '\0')
        text += std::string(" (") + reason + ")";
    switch (code) {
    case pcclNotInitialized:
        throw NotInitialized(text);
    case pcclInternalError:
        throw InternalError(text);
    case pcclInvalidArgument:
        throw InvalidArgument(text);
    case pcclInvalidUsage:
        throw InvalidUsage(text);
    case pcclTooFewPeers:
        throw TooFewPeers(text);
    case pcclMasterConnectionFailed:
        throw MasterConnectionFailed(text);
    case pcclRankConnectionFailed:
        throw RankConnectionFailed(text);
    case pcclRankConnectionLost:
        throw RankConnectionLost(text);
    case pcclNoSharedStateAvailable:
        throw NoSharedStateAvailable(text);
    case pcclPendingAsyncOps:
        throw PendingAsyncOps(text);
    case pcclUpdateTopologyFailed:
        throw UpdateTopologyFailed(text);
    case pcclTopologyOptimizationFailed:
        throw TopologyOptimizationFailed(text);
    case pcclSuccess:
        break;
    }
    throw Error(code, text);
}

// ---------------------------------------------------------------------------------------------------------------------
// Types and buffers
// ---------------------------------------------------------------------------------------------------------------------

/** The bits of an IEEE 754 binary16. Arithmetic is the program's own affair. */
struct Float16 {
    std::uint16_t bits;
};

/** The bits of a bfloat16: the upper half of a float. */
struct BFloat16 {
    std::uint16_t bits;
};

/** Which pcclDataType_t a C++ type is. Specialise it for a 16-bit float of your own. */
template <class Element, class Enable = void> struct DataType {
    static_assert(!std::is_same_v<Element, Element>, "no pcclDataType_t for this element type");
};
template <pcclDataType_t Type> using DataTypeConstant = std::integral_constant<pcclDataType_t, Type>;
template <> struct DataType<Float16> : DataTypeConstant<pcclFloat16> {};
template <> struct DataType<BFloat16> : DataTypeConstant<pcclBFloat16> {};
template <> struct DataType<float> : DataTypeConstant<pcclFloat> {};
template <> struct DataType<double> : DataTypeConstant<pcclDouble> {};
template <> struct DataType<std::byte> : DataTypeConstant<pcclUint8> {};
// By size, so that long and long long are both there.
template <class Element>
struct DataType<Element, std::enable_if_t<std::is_integral_v<Element> && !std::is_same_v<Element, bool>>>
    : DataTypeConstant<sizeof(Element) == 1        ? std::is_signed_v<Element> ? pcclInt8 : pcclUint8
                       : sizeof(Element) == 2      ? std::is_signed_v<Element> ? pcclInt16 : pcclUint16
                       : sizeof(Element) == 4      ? std::is_signed_v<Element> ? pcclInt32 : pcclUint32
                       : std::is_signed_v<Element> ? pcclInt64
                                                   : pcclUint64> {};

/** Elements in a row that somebody else owns. What every function makes of a vector, an array, a std::span. */
template <class Element> class Span {
  public:
    using value_type = std::remove_const_t<Element>;
    static constexpr pcclDataType_t dataType = DataType<value_type>::value;

    constexpr Span(Element *data, std::size_t size) noexcept : data_(data), size_(size) {}

    constexpr Element *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr Element *begin() const noexcept { return data_; }
    constexpr Element *end() const noexcept { return data_ + size_; }
    constexpr Element &operator[](std::size_t i) const noexcept { return data_[i]; }
    /** `count` elements from `first` on, which must be there. */
    constexpr Span subspan(std::size_t first, std::size_t count) const noexcept { return {data_ + first, count}; }

  private:
    Element *data_;
    std::size_t size_;
};

/** The elements of a contiguous container. */
template <class Buffer> auto span(Buffer &&buffer) {
    using Element = std::remove_pointer_t<decltype(std::data(buffer))>;
    return Span<Element>(std::data(buffer), std::size(buffer));
}

namespace detail {

/** A span that results are written to. */
template <class Buffer> auto writable(Buffer &&buffer) {
    auto result = span(buffer);
    static_assert(!std::is_const_v<std::remove_pointer_t<decltype(result.data())>>,
                  "a result is written to this buffer, which is const");
    return result;
}

// A vector that ends with the statement would be gone before the operation.
template <class Buffer> constexpr bool outlivesStatement = std::is_lvalue_reference_v<Buffer>;
template <class Element> constexpr bool outlivesStatement<Span<Element>> = true;
#if __cplusplus >= 202002L
template <class Element, std::size_t Extent> constexpr bool outlivesStatement<std::span<Element, Extent>> = true;
#endif

template <class Buffer> constexpr void requireLasting() {
    static_assert(outlivesStatement<Buffer>,
                  "the buffer is lent beyond this statement: give it a name, or pass a pccl::Span");
}

template <class Send, class Receive> void requireSameType(const Send &, const Receive &) {
    static_assert(std::is_same_v<typename Send::value_type, typename Receive::value_type>,
                  "what is sent and what is received must have the same element type");
}

inline std::string counted(std::size_t count) {
    return std::to_string(count) + (count == 1 ? " element" : " elements");
}

template <class Send, class Receive> void requireSameSize(const char *call, const Send &send, const Receive &receive) {
    requireSameType(send, receive);
    if (send.size() != receive.size())
        throw InvalidArgument(std::string(call) + ": " + counted(send.size()) + " to send, and room for " +
                              counted(receive.size()));
}

/** How many blocks of the smaller buffer the larger one is. */
inline std::uint32_t blocks(const char *call, std::size_t one, std::size_t all) {
    if (one == 0 || all == 0 || all % one != 0 || all / one > UINT32_MAX)
        throw InvalidArgument(std::string(call) + ": a buffer of " + counted(all) +
                              " does not have a block for each peer, of " + counted(one) + " each");
    return static_cast<std::uint32_t>(all / one);
}

} // namespace detail

/** An address "host:port", "[IPv6 address]:port", or one of the C API. Names are resolved when it is made. */
class Address {
  public:
    /** @throws InvalidArgument if the text is not of that form, or the name is not known. */
    Address(const std::string &text) : text_(text) {
        const auto colon = text.rfind(':');
        if (colon == std::string::npos || colon == 0 || colon + 1 == text.size())
            throw InvalidArgument("address \"" + text + "\": expected host:port");
        std::string host = text.substr(0, colon);
        const std::string port = text.substr(colon + 1);
        if (host.front() == '[' && host.back() == ']')
            host = host.substr(1, host.size() - 2);
        const bool isNumber = std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
        if (!isNumber || port.size() > 5 || std::stoul(port) > 65535 || std::stoul(port) == 0)
            throw InvalidArgument("address \"" + text + "\": the port must be a number from 1 to 65535");

        addrinfo hints{};
        hints.ai_socktype = SOCK_STREAM;
        addrinfo *found = nullptr;
        if (const int problem = getaddrinfo(host.c_str(), nullptr, &hints, &found))
            throw InvalidArgument("address \"" + text + "\": " + gai_strerror(problem));
        const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
        if (found->ai_family == AF_INET6) {
            sockaddr_in6 from;
            std::memcpy(&from, found->ai_addr, sizeof from);
            value_.inet.protocol = inetIPv6;
            std::memcpy(value_.inet.ipv6.data, &from.sin6_addr, 16);
        } else {
            sockaddr_in from;
            std::memcpy(&from, found->ai_addr, sizeof from);
            value_.inet.protocol = inetIPv4;
            std::memcpy(value_.inet.ipv4.data, &from.sin_addr, 4);
        }
        value_.port = static_cast<std::uint16_t>(std::stoul(port));
    }
    Address(const char *text) : Address(std::string(text)) {}
    Address(const ccoip_socket_address_t &value)
        : text_("the address given, port " + std::to_string(value.port)), value_(value) {}

    const std::string &text() const noexcept { return text_; }
    const ccoip_socket_address_t &value() const noexcept { return value_; }

  private:
    std::string text_;
    ccoip_socket_address_t value_{};
};

// ---------------------------------------------------------------------------------------------------------------------
// What calls take and give
// ---------------------------------------------------------------------------------------------------------------------

/** How a reduction is carried out; the members are those of pcclReduceDescriptor_t and pcclReduceOptions_t. */
struct ReduceOptions {
    /** Tells operations apart that are in flight together. The same at all peers. */
    std::uint64_t tag = 0;
    /** In the terms of PCCL 1.0: {pcclUint8, pcclQuantMinMax} sends floats as 8 bits. */
    pcclQuantizationOptions_t quantization = {pcclUint8, pcclQuantNone};
    pcclOnLoss_t onLoss = pcclOnLossUsual;
    pcclCodec_t codec = pcclCodecOfDescriptor;
    std::uint32_t blockElements = 0;
    pcclRounding_t rounding = pcclRoundingNearest;
    bool errorFeedback = false;
    void *cudaStream = nullptr;

    pcclReduceOptions_t native() const noexcept {
        pcclReduceOptions_t options{};
        options.struct_size = sizeof options;
        options.on_loss = onLoss;
        options.codec = codec;
        options.block_elements = blockElements;
        options.rounding = rounding;
        options.error_feedback = errorFeedback ? 1 : 0;
        options.cuda_stream = cudaStream;
        return options;
    }
};

/** What an operation did. */
struct ReduceInfo {
    /** Of how many peers the contributions are. */
    std::uint32_t worldSize = 0;
    /** Bytes of tensors that this peer sent and received for it. */
    std::uint64_t sentBytes = 0, receivedBytes = 0;
    /** Which elements are of how many peers; of an all-reduce with an onLoss that resumes, otherwise empty. */
    std::vector<pcclReducePart_t> parts;
};

/** What a synchronisation of the shared state moved. */
struct SyncInfo {
    std::uint64_t sentBytes = 0, receivedBytes = 0;
};

/** One of several all-reduces, for allReduceMultipleWithRetry. Made by reduction(); lends the buffers. */
using Reduction = pcclReduceOpDescriptor_t;

/** An all-reduce for allReduceMultipleWithRetry. Each has a tag of its own. */
template <class Send, class Receive>
Reduction reduction(Send &&send, Receive &&receive, pcclRedOp_t op, std::uint64_t tag,
                    pcclQuantizationOptions_t quantization = {pcclUint8, pcclQuantNone}) {
    detail::requireLasting<Send>();
    detail::requireLasting<Receive>();
    const auto from = span(send);
    const auto to = detail::writable(receive);
    detail::requireSameSize("reduction", from, to);
    Reduction result{};
    // The C API does not write there, unless it is the same buffer.
    result.sendbuf = const_cast<void *>(static_cast<const void *>(from.data()));
    result.recvbuf = to.data();
    result.descriptor.count = to.size();
    result.descriptor.op = op;
    result.descriptor.tag = tag;
    result.descriptor.src_descriptor.datatype = to.dataType;
    result.descriptor.quantization_options = quantization;
    return result;
}

/** The same in place. */
template <class Buffer>
Reduction reduction(Buffer &&buffer, pcclRedOp_t op, std::uint64_t tag,
                    pcclQuantizationOptions_t quantization = {pcclUint8, pcclQuantNone}) {
    detail::requireLasting<Buffer>();
    return reduction(buffer, buffer, op, tag, quantization);
}

/** The tensors that all peers of a group hold alike. Lends their memory; docs/shared-state.md has the rules. */
class SharedState {
  public:
    /** Goes up by one from synchronisation to synchronisation; written where this peer was behind. */
    std::uint64_t revision = 0;

    /** How peers treat an entry. */
    struct EntryOptions {
        /** Peers may hold different values: it is neither compared nor sent on its own. */
        bool mayDiffer = false;
        /** The caller's word that nobody has written it since the last synchronisation. It is believed. */
        bool isUnchanged = false;
    };

    /** Adds an entry. The buffer must outlive the last use of this object, and not move. */
    template <class Buffer> SharedState &add(std::string name, Buffer &&buffer, EntryOptions options) {
        detail::requireLasting<Buffer>();
        const auto elements = detail::writable(buffer);
        entries_.push_back({std::move(name), elements.data(), elements.size(), elements.dataType, options});
        return *this;
    }
    template <class Buffer> SharedState &add(std::string name, Buffer &&buffer) {
        return add(std::move(name), std::forward<Buffer>(buffer), EntryOptions());
    }

    /** Says of the entry of this name whether it was written since the last synchronisation. */
    void setUnchanged(const std::string &name, bool isUnchanged) {
        for (Entry &entry : entries_) {
            if (entry.name == name) {
                entry.options.isUnchanged = isUnchanged;
                return;
            }
        }
        throw InvalidArgument("setUnchanged: the shared state has no entry \"" + name + "\"");
    }

  private:
    friend class Communicator;
    struct Entry {
        std::string name;
        void *data;
        std::size_t count;
        pcclDataType_t type;
        EntryOptions options;
    };
    std::vector<Entry> entries_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Operations in flight
// ---------------------------------------------------------------------------------------------------------------------

namespace detail {
/** What a communicator and its operations share, so that these know when it is closed. */
struct Membership {
    pcclComm_t *communicator = nullptr;
};
} // namespace detail

/**
 * An asynchronous operation. Its buffers are lent until wait() has returned or thrown, or it was destroyed, which waits
 * and says nothing of the outcome. Once its communicator is closed nothing is in flight any more.
 */
class [[nodiscard]] Operation {
  public:
    Operation(Operation &&other) noexcept
        : membership_(std::move(other.membership_)), handle_(other.handle_), partsAtMost_(other.partsAtMost_) {}
    Operation &operator=(Operation &&other) noexcept {
        if (this != &other) {
            finish();
            membership_ = std::move(other.membership_);
            handle_ = other.handle_;
            partsAtMost_ = other.partsAtMost_;
        }
        return *this;
    }
    ~Operation() { finish(); }

    /**
     * Waits until it has ended, and takes its outcome: once. pcclAwaitAsyncReduceParts.
     * @throws what it came to; InvalidUsage when it was waited for before, or the communicator is closed.
     */
    ReduceInfo wait() {
        const auto membership = std::move(membership_);
        if (membership == nullptr)
            throw InvalidUsage("wait: the operation was waited for before");
        if (membership->communicator == nullptr)
            throw InvalidUsage("wait: the communicator was closed, which has ended the operation");
        ReduceInfo result;
        result.parts.resize(partsAtMost_);
        pcclReduceInfo_t info{};
        std::size_t count = 0;
        check(pcclAwaitAsyncReduceParts(&handle_, &info, partsAtMost_ == 0 ? nullptr : result.parts.data(),
                                        partsAtMost_, &count),
              "pcclAwaitAsyncReduceParts (tag " + std::to_string(handle_.tag) + ")");
        result.parts.resize(std::min(count, partsAtMost_));
        result.worldSize = info.local_world_size;
        result.sentBytes = info.tx_bytes;
        result.receivedBytes = info.rx_bytes;
        return result;
    }

    /** Whether wait() was not called yet. */
    bool isPending() const noexcept { return membership_ != nullptr && membership_->communicator != nullptr; }

  private:
    friend class Communicator;
    Operation(std::shared_ptr<const detail::Membership> membership, pcclAsyncReduceOp_t handle,
              std::size_t partsAtMost) noexcept
        : membership_(std::move(membership)), handle_(handle), partsAtMost_(partsAtMost) {}

    void finish() noexcept {
        if (isPending())
            pcclAwaitAsyncReduce(&handle_, nullptr);
        membership_ = nullptr;
    }

    std::shared_ptr<const detail::Membership> membership_;
    pcclAsyncReduceOp_t handle_;
    std::size_t partsAtMost_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Communicators
// ---------------------------------------------------------------------------------------------------------------------

/** A peer's membership in a run. */
class Communicator {
  public:
    /** What a communicator is made from; pcclCommCreateParams_t has the details. */
    struct Configuration {
        /** Of the master. */
        Address master;
        std::uint32_t peerGroup = 0;
        /** 0 lets the library choose. */
        std::uint32_t connectionsPerPeer = 0;
        /** Peers that are admitted together with this one; a size of 0 is none. pcclEnsemble_t. */
        std::uint64_t ensembleID = 0;
        std::uint32_t ensembleSize = 0;

        Configuration(Address ofMaster, std::uint32_t group = 0, std::uint32_t connections = 0)
            : master(std::move(ofMaster)), peerGroup(group), connectionsPerPeer(connections) {}
    };

    /** pcclInit and pcclCreateCommunicator, or pcclCreateCommunicatorInEnsemble. Does not touch the network. */
    explicit Communicator(const Configuration &configuration)
        : membership_(std::make_shared<detail::Membership>()), master_(configuration.master.text()) {
        check(pcclInit(), "pcclInit");
        pcclCommCreateParams_t parameters{};
        parameters.master_address = configuration.master.value();
        parameters.peer_group = configuration.peerGroup;
        parameters.p2p_connection_pool_size = configuration.connectionsPerPeer;
        if (configuration.ensembleSize == 0) {
            check(pcclCreateCommunicator(&parameters, &membership_->communicator), "pcclCreateCommunicator");
        } else {
            pcclEnsemble_t ensemble{};
            ensemble.id = configuration.ensembleID;
            ensemble.size = configuration.ensembleSize;
            check(pcclCreateCommunicatorInEnsemble(&parameters, &ensemble, &membership_->communicator),
                  "pcclCreateCommunicatorInEnsemble");
        }
    }

    Communicator(Communicator &&other) noexcept = default;
    Communicator &operator=(Communicator &&other) noexcept {
        if (this != &other) {
            close();
            membership_ = std::move(other.membership_);
            master_ = std::move(other.master_);
        }
        return *this;
    }
    ~Communicator() { close(); }

    /**
     * Leaves the run. Operations in flight end, and no buffer is used afterwards. May be repeated; all other calls then
     * throw InvalidUsage. No other thread may be inside a call.
     */
    void close() noexcept {
        if (membership_ != nullptr && membership_->communicator != nullptr)
            pcclDestroyCommunicator(std::exchange(membership_->communicator, nullptr));
    }

    /** Joins the run, and blocks until admitted: pcclConnect. May be called again after MasterConnectionFailed. */
    void connect() { check(pcclConnect(native()), "pcclConnect to " + master_); }

    /** The join point: admits who waits. Joint. pcclUpdateTopology. */
    void updateTopology() { check(pcclUpdateTopology(native()), "pcclUpdateTopology"); }

    /** Whether peers wait to be admitted. Joint. pcclArePeersPending. */
    bool arePeersPending() const {
        bool answer = false;
        check(pcclArePeersPending(native(), &answer), "pcclArePeersPending");
        return answer;
    }

    /** Arranges the group by what is known of its links. Joint. pcclOptimizeTopology. */
    void optimizeTopology() const { check(pcclOptimizeTopology(native()), "pcclOptimizeTopology"); }

    /** A number about the run as of now. pcclGetAttribute. */
    int attribute(pcclAttribute_t which) const {
        int value = 0;
        check(pcclGetAttribute(native(), which, &value), "pcclGetAttribute");
        return value;
    }

    /** Peers in the group of this one. */
    int worldSize() const { return attribute(PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE); }
    /** Peers in the run, all groups together. */
    int globalWorldSize() const { return attribute(PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE); }

    /** A place among the members of a group, and how many they are. */
    struct Place {
        std::uint32_t rank = 0, worldSize = 0;
    };
    /** This peer's place as of now. pcclGetRank. */
    Place place() const {
        Place result;
        check(pcclGetRank(native(), &result.rank, &result.worldSize), "pcclGetRank");
        return result;
    }

    // --- all-reduce

    /** Reduces in place. Blocks. pcclAllReduceWithOptions; after RankConnectionLost the buffer has its input again. */
    template <class Buffer>
    ReduceInfo allReduce(Buffer &&buffer, pcclRedOp_t op, const ReduceOptions &options = {}) const {
        return begin(detail::writable(buffer), detail::writable(buffer), op, options).wait();
    }
    /** Reduces from one buffer into another of the same size and type, which must not overlap. */
    template <class Send, class Receive>
    ReduceInfo allReduce(const Send &send, Receive &&receive, pcclRedOp_t op, const ReduceOptions &options = {}) const {
        return begin(span(send), detail::writable(receive), op, options).wait();
    }

    /** Begins one in place. pcclAllReduceAsyncWithOptions. Operations in flight together have different tags. */
    template <class Buffer>
    Operation allReduceAsync(Buffer &&buffer, pcclRedOp_t op, const ReduceOptions &options = {}) const {
        detail::requireLasting<Buffer>();
        return begin(detail::writable(buffer), detail::writable(buffer), op, options);
    }
    template <class Send, class Receive>
    Operation allReduceAsync(Send &&send, Receive &&receive, pcclRedOp_t op, const ReduceOptions &options = {}) const {
        detail::requireLasting<Send>();
        detail::requireLasting<Receive>();
        return begin(span(send), detail::writable(receive), op, options);
    }

    /** allReduce in place, again for as long as it throws RankConnectionLost. */
    template <class Buffer>
    ReduceInfo allReduceWithRetry(Buffer &&buffer, pcclRedOp_t op, const ReduceOptions &options = {}) const {
        return allReduceWithRetry(buffer, buffer, op, options);
    }
    template <class Send, class Receive>
    ReduceInfo allReduceWithRetry(const Send &send, Receive &&receive, pcclRedOp_t op,
                                  const ReduceOptions &options = {}) const {
        for (;;) {
            try {
                return allReduce(send, receive, op, options);
            } catch (const RankConnectionLost &) {
                // Each time with fewer peers, until it is TooFewPeers.
            }
        }
    }

    /**
     * Reduces several, `maxInFlight` at a time, whoever is lost meanwhile. pcclAllReduceMultipleWithOptions; of the
     * options tag and quantization are not looked at, as each reduction has its own.
     * @throws TooFewPeers when this peer is left alone; what was not finished has its input.
     */
    ReduceInfo allReduceMultipleWithRetry(const std::vector<Reduction> &reductions, int maxInFlight = 8,
                                          const ReduceOptions &options = {}) const {
        const pcclReduceOptions_t nativeOptions = options.native();
        pcclReduceInfo_t info{};
        check(pcclAllReduceMultipleWithOptions(reductions.data(), reductions.size(), native(), &nativeOptions, &info,
                                               maxInFlight),
              "pcclAllReduceMultipleWithOptions");
        return made(info);
    }

    /** Forgets what error feedback keeps under a tag. pcclFreeErrorFeedback. */
    void freeErrorFeedback(std::uint64_t tag) const {
        check(pcclFreeErrorFeedback(native(), tag), "pcclFreeErrorFeedback");
    }

    // --- the other collectives: buffers have a block for each peer, by rank. After RankConnectionLost ask for place()
    // again, and lay them out anew.

    /** Brings everybody's block to everybody: `receive` is as many blocks of `send` as there are peers. pcclAllGather.
     */
    template <class Send, class Receive>
    ReduceInfo allGather(const Send &send, Receive &&receive, const ReduceOptions &options = {}) const {
        return beginGather(span(send), detail::writable(receive), options).wait();
    }
    template <class Send, class Receive>
    Operation allGatherAsync(Send &&send, Receive &&receive, const ReduceOptions &options = {}) const {
        detail::requireLasting<Send>();
        detail::requireLasting<Receive>();
        return beginGather(span(send), detail::writable(receive), options);
    }

    /** Reduces everybody's blocks, and gives each peer that of its rank. pcclReduceScatter. */
    template <class Send, class Receive>
    ReduceInfo reduceScatter(const Send &send, Receive &&receive, pcclRedOp_t op,
                             const ReduceOptions &options = {}) const {
        return beginScatter(span(send), detail::writable(receive), op, options).wait();
    }
    template <class Send, class Receive>
    Operation reduceScatterAsync(Send &&send, Receive &&receive, pcclRedOp_t op,
                                 const ReduceOptions &options = {}) const {
        detail::requireLasting<Send>();
        detail::requireLasting<Receive>();
        return beginScatter(span(send), detail::writable(receive), op, options);
    }

    /** Brings the buffer of the peer of rank `root` to all others. pcclBroadcast. */
    template <class Buffer>
    ReduceInfo broadcast(Buffer &&buffer, std::uint32_t root, const ReduceOptions &options = {}) const {
        return beginBroadcast(detail::writable(buffer), root, options).wait();
    }
    template <class Buffer>
    Operation broadcastAsync(Buffer &&buffer, std::uint32_t root, const ReduceOptions &options = {}) const {
        detail::requireLasting<Buffer>();
        return beginBroadcast(detail::writable(buffer), root, options);
    }

    /** Waits until all members have called it with this tag. pcclBarrier. */
    void barrier(std::uint64_t tag = 0) const { check(pcclBarrier(tag, native(), nullptr), "pcclBarrier"); }

    // --- shared state

    /** Brings all members to the same content. Joint. pcclSynchronizeSharedStateWithOptions. */
    SyncInfo synchronizeSharedState(SharedState &state, pcclSharedStateSyncStrategy_t strategy =
                                                            PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR) const {
        std::vector<pcclTensorInfo_t> infos;
        const std::unique_ptr<bool[]> unchanged(new bool[state.entries_.size() + 1]);
        for (const SharedState::Entry &entry : state.entries_) {
            unchanged[infos.size()] = entry.options.isUnchanged;
            infos.push_back(
                {entry.name.c_str(), entry.data, entry.count, entry.type, pcclDeviceCpu, entry.options.mayDiffer});
        }
        pcclSharedState_t nativeState{};
        nativeState.revision = state.revision;
        nativeState.count = infos.size();
        nativeState.infos = infos.data();
        pcclSyncOptions_t options{};
        options.struct_size = sizeof options;
        options.unchanged = unchanged.get();
        pcclSharedStateSyncInfo_t info{};
        check(pcclSynchronizeSharedStateWithOptions(native(), &nativeState, strategy, &options, &info),
              "pcclSynchronizeSharedState (revision " + std::to_string(state.revision) + ")");
        state.revision = nativeState.revision;
        return {info.tx_bytes, info.rx_bytes};
    }

    /** For calls of the C API that this header has not. Stays this object's. @throws InvalidUsage if it is closed. */
    pcclComm_t *native() const {
        if (membership_ == nullptr || membership_->communicator == nullptr)
            throw InvalidUsage("the communicator is closed");
        return membership_->communicator;
    }

  private:
    static ReduceInfo made(const pcclReduceInfo_t &info) {
        return {info.local_world_size, info.tx_bytes, info.rx_bytes, {}};
    }

    template <class Send, class Receive>
    Operation begin(Send send, Receive receive, pcclRedOp_t op, const ReduceOptions &options) const {
        const Reduction one = reduction(send, receive, op, options.tag, options.quantization);
        const pcclReduceOptions_t nativeOptions = options.native();
        pcclAsyncReduceOp_t handle{};
        check(
            pcclAllReduceAsyncWithOptions(one.sendbuf, one.recvbuf, &one.descriptor, native(), &nativeOptions, &handle),
            "pcclAllReduce (tag " + std::to_string(options.tag) + ")");
        const bool resumes = options.onLoss == pcclOnLossResume || options.onLoss == pcclOnLossResumeWhole;
        return Operation(membership_, handle, resumes ? std::min<std::size_t>(receive.size(), 1024) : 0);
    }

    static pcclCollectiveDescriptor_t describe(std::size_t count, pcclDataType_t type, std::uint32_t worldSize,
                                               const ReduceOptions &options, const pcclReduceOptions_t &nativeOptions) {
        pcclCollectiveDescriptor_t descriptor{};
        descriptor.struct_size = sizeof descriptor;
        descriptor.tag = options.tag;
        descriptor.count = count;
        descriptor.datatype = type;
        descriptor.world_size = worldSize;
        descriptor.options = &nativeOptions;
        return descriptor;
    }

    template <class Send, class Receive>
    Operation beginGather(Send send, Receive receive, const ReduceOptions &options) const {
        detail::requireSameType(send, receive);
        const std::uint32_t worldSize = detail::blocks("allGather", send.size(), receive.size());
        const pcclReduceOptions_t nativeOptions = options.native();
        const auto descriptor = describe(send.size(), send.dataType, worldSize, options, nativeOptions);
        pcclAsyncReduceOp_t handle{};
        check(pcclAllGatherAsync(send.data(), receive.data(), &descriptor, native(), &handle), "pcclAllGather");
        return Operation(membership_, handle, 0);
    }

    template <class Send, class Receive>
    Operation beginScatter(Send send, Receive receive, pcclRedOp_t op, const ReduceOptions &options) const {
        detail::requireSameType(send, receive);
        const std::uint32_t worldSize = detail::blocks("reduceScatter", receive.size(), send.size());
        const pcclReduceOptions_t nativeOptions = options.native();
        auto descriptor = describe(receive.size(), send.dataType, worldSize, options, nativeOptions);
        descriptor.op = op;
        pcclAsyncReduceOp_t handle{};
        check(pcclReduceScatterAsync(send.data(), receive.data(), &descriptor, native(), &handle), "pcclReduceScatter");
        return Operation(membership_, handle, 0);
    }

    template <class Buffer>
    Operation beginBroadcast(Buffer buffer, std::uint32_t root, const ReduceOptions &options) const {
        const pcclReduceOptions_t nativeOptions = options.native();
        auto descriptor = describe(buffer.size(), buffer.dataType, 0, options, nativeOptions);
        descriptor.root = root;
        pcclAsyncReduceOp_t handle{};
        check(pcclBroadcastAsync(buffer.data(), &descriptor, native(), &handle), "pcclBroadcast");
        return Operation(membership_, handle, 0);
    }

    std::shared_ptr<detail::Membership> membership_;
    std::string master_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Masters
// ---------------------------------------------------------------------------------------------------------------------

/** A master inside this process. Most runs use the program pccl-master instead, which can be started again. */
class Master {
  public:
    /** Does not open the port yet. pcclCreateMaster. */
    explicit Master(const Address &listen) : address_(listen.text()) {
        check(pcclCreateMaster(listen.value(), &instance_), "pcclCreateMaster");
    }
    Master(const Master &) = delete;
    Master &operator=(const Master &) = delete;
    /** Ends it, if it runs. */
    ~Master() { pcclDestroyMaster(instance_); }

    /** Listens, on a thread of its own; returns at once. pcclRunMaster. @throws InvalidUsage if the port is in use. */
    void run() { check(pcclRunMaster(instance_), "pcclRunMaster at " + address_); }
    /** Asks it to end; from any thread. */
    void interrupt() { check(pcclInterruptMaster(instance_), "pcclInterruptMaster"); }
    /** Blocks until it has ended. */
    void awaitTermination() { check(pcclMasterAwaitTermination(instance_), "pcclMasterAwaitTermination"); }

  private:
    std::string address_;
    pcclMasterInstance_t *instance_ = nullptr;
};

} // namespace pccl

#endif // PCCL_HPP
