import Glibc

/// One period of a pattern, as bytes.
struct RepeatedBlock {
    let bytes: [UInt8]

    func fill(_ memory: UnsafeMutableRawBufferPointer) {
        bytes.withUnsafeBytes { block in
            var offset = 0
            while offset < memory.count {
                let length = min(block.count, memory.count - offset)
                memcpy(memory.baseAddress! + offset, block.baseAddress!, length)
                offset += length
            }
        }
    }

    /// The first byte that is not the pattern's; nil if all are.
    func firstDifference(in memory: UnsafeRawBufferPointer) -> Int? {
        bytes.withUnsafeBytes { block in
            for offset in stride(from: 0, to: memory.count, by: block.count) {
                let length = min(block.count, memory.count - offset)
                if memcmp(memory.baseAddress! + offset, block.baseAddress!, length) == 0 { continue }
                return (0..<length).first { memory[offset + $0] != block[$0] }.map { offset + $0 }
            }
            return nil
        }
    }
}
