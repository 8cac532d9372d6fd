import CZstd

/// Compresses and expands pieces of memory with Zstandard (RFC 8878), each a frame of its own.
///
/// It belongs to one thread: its working memory, about a megabyte, is used again and again, and taken with the first piece.
package final class Zstd {
    /// The fastest of the ordinary levels: 0.4 to 1 GB/s a core.
    private static let level: CInt = 1

    private var compressor: OpaquePointer?
    private var expander: OpaquePointer?

    package init() {}

    deinit {
        ZSTD_freeCCtx(compressor)
        ZSTD_freeDCtx(expander)
    }

    /// The size of the frame; nil if it does not fit into the target, or there is no memory to work with.
    package func compress(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Int? {
        if compressor == nil { compressor = ZSTD_createCCtx() }
        guard let compressor else { return nil }
        let size = ZSTD_compressCCtx(
            compressor, target.baseAddress, target.count, source.baseAddress, source.count, Zstd.level)
        return ZSTD_isError(size) == 0 ? size : nil
    }

    /// False if it is no frame, or one that does not fill the target exactly. Whatever the frame says, no more is written.
    package func expand(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool {
        if expander == nil { expander = ZSTD_createDCtx() }
        guard let expander else { return false }
        let size = ZSTD_decompressDCtx(
            expander, target.baseAddress, target.count, source.baseAddress, source.count)
        return ZSTD_isError(size) == 0 && size == target.count
    }
}
