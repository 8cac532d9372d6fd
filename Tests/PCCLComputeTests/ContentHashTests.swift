import CKernels
import PCCLBase
import PCCLCompute
import Testing

private let levels = [pccl_kernel_level_plain, pccl_kernel_level_avx2, pccl_kernel_level_avx512]
private let mebibyte = 1 << 20

/// Byte i is the top byte of the low 32 bits of i × 0x9e3779b1.
private let pattern: [UInt8] = (0..<UInt32(3 * mebibyte + 5)).map { UInt8(($0 &* 0x9e37_79b1) >> 24) }

/// What `seq 500000` prints, as far as docs/shared-state.md uses it.
private let numbers: [UInt8] = {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(3 * mebibyte + 16)
    var number = 1
    while bytes.count < 3 * mebibyte + 5 {
        bytes.append(contentsOf: "\(number)\n".utf8)
        number += 1
    }
    return bytes
}()

/// XXH3 of the pattern's first bytes. These values, the digest and the trees below were made with the Python package
/// xxhash 4.1.0, which has the reference implementation (libxxhash 0.8.4) in it:
///
///     data = bytes((i * 0x9e3779b1 >> 24) & 255 for i in range(3 * 2**20 + 5))
///     xxhash.xxh3_128(data[:count]).hexdigest()
private let vectors: [(count: Int, hash: String)] = [
    (0, "99aa06d3014798d86001c324468d497f"),
    (1, "a6cd5e9392000f6ac44bdff4074eecdb"),
    (3, "977fcbc0448b49f6e14090f554a5ea90"),
    (4, "4e82b36688c5328f4ee6926f0426173e"),
    (8, "7b4966a681f18d5779d85adaeefd615e"),
    (9, "200d098a7113e15fee5940d4df4715ae"),
    (16, "78e8ab538d3acaab37286a19cf622308"),
    (17, "1ea709ada2b9c32e33bed349ec1c0ce7"),
    (128, "5ac741c59c95d36ae1f0636051ccd2be"),
    (129, "1240f4d960139642cfb3fed667226458"),
    (240, "640a6149838a7599b2e6947c477a4ab0"),
    (241, "e817e20e53e42a8c2d431e984c441f15"),
    (512, "f67f00b2ac0ea3cddcfed6ee2883acd0"),
    (1023, "5687286dd310b7db4e30bb611faa8f67"),
    (1024, "df4c8b9ff9715101e99def1145f12936"),
    (1025, "63e845aab7eb695f83cba9b371e4e7f4"),
    (65536, "ce4ad9e587f44a1920605b76ceddc43b"),
    (mebibyte - 1, "b8655f26c800bd127fa4807c195bf7d2"),
    (mebibyte, "7e34237c007b503ea60868b9a5018405"),
    (mebibyte + 1, "3e76d00e6aef565f516b4472ef1d03b3"),
    (3 * mebibyte + 5, "efcad8e86dff5cf50f02e94e42dcc650"),
]

/// FNV-1a, 64 bits, over the canonical forms of the hashes of 0 to 300 bytes of the pattern, one after the other.
private let digestOfShortOnes: UInt64 = 0x5549_9d94_528a_f8aa

private func xxh3(_ level: pccl_kernel_level, _ bytes: UnsafeRawBufferPointer) -> ContentHash? {
    guard let hash = pccl_kernel_xxh3_at(level)?(bytes.baseAddress, bytes.count) else { return nil }
    return ContentHash(high: hash.high, low: hash.low)
}

private func hash(_ bytes: some Collection<UInt8>) -> ContentHash {
    Array(bytes).withUnsafeBytes { ContentHash($0) }
}

private func hashesOfChunks(_ bytes: [UInt8], _ chunks: Range<Int>? = nil) -> [ContentHash] {
    bytes.withUnsafeBytes { ContentHash.ofChunks(chunks ?? 0..<ContentHash.chunkCount(of: $0.count), of: $0) }
}

@Suite("Content hashes: XXH3, and a tree of it")
struct ContentHashTests {
    @Test("every level computes what the reference implementation does, at the borders between its ways")
    func vectorsAtEachLevel() throws {
        try pattern.withUnsafeBytes { bytes in
            for (count, expected) in vectors {
                for level in levels {
                    guard let hash = xxh3(level, UnsafeRawBufferPointer(rebasing: bytes[..<count])) else { continue }
                    try #require(hash.description == expected, "\(count) bytes, \(level)")
                }
            }
        }
        #expect(
            xxh3(pccl_kernel_level_plain, UnsafeRawBufferPointer(start: nil, count: 0))?.high == 0x99aa_06d3_0147_98d8)
    }

    @Test("every level computes what the reference implementation does, for each length up to 300")
    func shortOnes() {
        for level in levels {
            var digest: UInt64 = 0xcbf2_9ce4_8422_2325
            pattern.withUnsafeBytes { bytes in
                for count in 0...300 {
                    let hash = xxh3(level, UnsafeRawBufferPointer(rebasing: bytes[..<count]))
                    for word in [hash?.high ?? 0, hash?.low ?? 0] {
                        for shift in stride(from: 56, through: 0, by: -8) {
                            digest = (digest ^ (word >> UInt64(shift) & 0xff)) &* 0x100_0000_01b3
                        }
                    }
                }
            }
            #expect(digest == digestOfShortOnes || pccl_kernel_xxh3_at(level) == nil, "\(level)")
        }
    }

    @Test("levels agree for each length around rows and blocks")
    func levelsAgree() throws {
        try pattern.withUnsafeBytes { bytes in
            for count in Array(301...1200) + Array(1980...2120) {
                let input = UnsafeRawBufferPointer(rebasing: bytes[count..<2 * count])
                let expected = xxh3(pccl_kernel_level_plain, input)
                for level in levels {
                    guard let hash = xxh3(level, input) else { continue }
                    try #require(hash == expected, "\(count) bytes, \(level)")
                }
            }
        }
    }

    @Test("a hash does not depend on where the bytes lie, nor on what lies beside them")
    func alignment() throws {
        for count in [0, 1, 3, 7, 8, 16, 100, 200, 241, 1000, 1024, 1025, 5000] {
            let expected = hash(pattern.prefix(count))
            for offset in 0..<17 {
                var memory = [UInt8](repeating: UInt8(offset), count: offset + count + 64)
                memory.replaceSubrange(offset..<offset + count, with: pattern.prefix(count))
                try memory.withUnsafeBytes { bytes in
                    let input = UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
                    for level in levels {
                        guard let hash = xxh3(level, input) else { continue }
                        try #require(hash == expected, "\(count) bytes at \(offset), \(level)")
                    }
                }
            }
        }
    }

    @Test("a tensor of one chunk has the hash of that chunk, and a longer one that of the chunks' hashes")
    func trees() {
        let trees: [(count: Int, hash: String)] = [
            (0, "99aa06d3014798d86001c324468d497f"),
            (1025, "63e845aab7eb695f83cba9b371e4e7f4"),
            (mebibyte - 1, "b8655f26c800bd127fa4807c195bf7d2"),
            (mebibyte, "7e34237c007b503ea60868b9a5018405"),
            (mebibyte + 1, "f9c5c81930e98dbb1e99cbebc977d882"),
            (2 * mebibyte, "9571b7578825e42fc24ec3d3883e9585"),
            (3 * mebibyte + 5, "a48421cf6203fac43f90e2de31b9af16"),
        ]
        for (count, expected) in trees {
            #expect(hash(pattern.prefix(count)).description == expected, "\(count) bytes")
        }
        #expect(ContentHash(UnsafeRawBufferPointer(start: nil, count: 0)) == hash([]))
    }

    @Test("the values in docs/shared-state.md are right")
    func documentedVectors() {
        #expect(hash([]).description == "99aa06d3014798d86001c324468d497f")
        #expect(hash(numbers.prefix(1)).description == "df3ce784d856334d65cd25028f98f158")
        #expect(hash(numbers.prefix(100)).description == "61ecb786247f915ac7fc5a6062ed0c17")
        #expect(hash(numbers.prefix(1000)).description == "58b210ccecf9cb16a7495e9b9a6348cd")
        #expect(hash(numbers.prefix(1_048_576)).description == "7ac5fbc5349cd2576552051b79eb0f89")
        #expect(hash(numbers.prefix(3_145_733)).description == "8aa9b000e51bdc4c615b50fd77a927a3")
    }

    @Test("chunks cover a tensor, in order and without gaps")
    func chunks() {
        for (byteCount, count) in [
            (0, 1), (1, 1), (mebibyte, 1), (mebibyte + 1, 2), (2 * mebibyte, 2), (.max, 1 << 43),
        ] {
            #expect(ContentHash.chunkCount(of: byteCount) == count)
            let last = ContentHash.range(ofChunk: count - 1, byteCount: byteCount)
            #expect(last.upperBound == byteCount && last.lowerBound == (count - 1) * mebibyte)
            if count > 1 { #expect(ContentHash.range(ofChunk: 0, byteCount: byteCount) == 0..<mebibyte) }
        }
    }

    @Test("chunks can be hashed in parts, and parts joined")
    func parts() {
        let whole = hashesOfChunks(pattern)
        #expect(whole.count == 4)
        #expect(
            hashesOfChunks(pattern, 0..<1) + hashesOfChunks(pattern, 1..<3) + hashesOfChunks(pattern, 3..<4) == whole)
        #expect(hashesOfChunks(pattern, 2..<2) == [])
        #expect(ContentHash(ofChunks: whole, byteCount: pattern.count) == hash(pattern))
    }

    @Test("one changed bit shows in the hash of its chunk alone, and in that of the tensor")
    func changes() {
        let before = hashesOfChunks(pattern)
        for place in [0, mebibyte - 1, mebibyte, 2 * mebibyte + 777, 3 * mebibyte + 4] {
            var changed = pattern
            changed[place] ^= 0x10
            let after = hashesOfChunks(changed)
            #expect(before.indices.filter { before[$0] != after[$0] } == [place / mebibyte])
            #expect(hash(changed) != hash(pattern))
        }
    }

    @Test("the order of chunks and the number of bytes are part of a tensor's hash")
    func orderAndSize() {
        let hashes = hashesOfChunks(pattern)
        let whole = ContentHash(ofChunks: hashes, byteCount: pattern.count)
        #expect(ContentHash(ofChunks: hashes.reversed(), byteCount: pattern.count) != whole)
        #expect(ContentHash(ofChunks: hashes, byteCount: pattern.count + 1) != whole)
        // Zeros that are missing or too many, in a tensor of one chunk and of two.
        let zeros = [UInt8](repeating: 0, count: mebibyte + 2)
        let different = [0, 1, 2, mebibyte - 1, mebibyte, mebibyte + 1, mebibyte + 2].map { hash(zeros.prefix($0)) }
        #expect(Set(different).count == different.count)
    }

    @Test("a hash is written with all of its 32 digits")
    func digits() {
        #expect(ContentHash(high: 0, low: 10).description == "0000000000000000000000000000000a")
        #expect(ContentHash(high: .max, low: 1 << 60).description == "ffffffffffffffff1000000000000000")
    }
}

@Suite("The content hash by SHA-256")
struct SHA256HashTests {
    private func hash(_ bytes: [UInt8]) -> String {
        bytes.withUnsafeBytes { "\(ContentHash($0, by: .sha256))" }
    }

    /// As in docs/shared-state.md, and what `sha256sum` says.
    private static let text = Array((1...500_000).map { "\($0)\n" }.joined().utf8)

    @Test("of one chunk it is SHA-256: the examples of FIPS 180-4, and of the document")
    func oneChunk() {
        #expect(hash([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(hash(Array("abc".utf8)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(
            hash(Array(Self.text.prefix(1 << 20))) == "a7a14d0926bda540030fd4c43a64aa0c8a343f5cd735e34b45150c4b0b7a528e"
        )
    }

    @Test("of several it is SHA-256 of theirs and the number of bytes, by however many threads")
    func severalChunks() {
        let bytes = Array(Self.text.prefix(3_145_733))
        let expected = "611d1477ac7339d148b74822aa9a5e5b7237e4a4d7cd9344b200aeb1cf7ac877"
        #expect(hash(bytes) == expected)
        let chunks = bytes.withUnsafeBytes { ContentHash.ofChunks(of: [$0, $0, $0], by: .sha256) }
        #expect(chunks[0].count == 4 && chunks[0] == chunks[2])
        #expect("\(ContentHash(ofChunks: chunks[1], byteCount: bytes.count, by: .sha256))" == expected)
    }
}

@Suite("Hashing with threads")
struct ThreadedHashTests {
    @Test("tensors of all sizes come out as by themselves, in their order")
    func order() {
        let sizes = [0, 1, 1 << 20, (40 << 20) + 3, 5, (1 << 20) + 1, 0]
        let tensors = sizes.enumerated().map { index, size in [UInt8](repeating: UInt8(index), count: size) }
        var buffers: [UnsafeMutableRawBufferPointer] = []
        for tensor in tensors {
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: tensor.count, alignment: 64)
            buffer.copyBytes(from: tensor)
            buffers.append(buffer)
        }
        defer { for buffer in buffers { buffer.deallocate() } }
        let hashes = ContentHash.ofChunks(of: buffers.map { UnsafeRawBufferPointer($0) })
        for (hashes, buffer) in zip(hashes, buffers) {
            let raw = UnsafeRawBufferPointer(buffer)
            #expect(hashes == ContentHash.ofChunks(0..<ContentHash.chunkCount(of: raw.count), of: raw))
        }
        #expect(ContentHash.ofChunks(of: []).isEmpty)
    }
}
