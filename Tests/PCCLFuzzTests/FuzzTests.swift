import Glibc
import PCCLBase
import PCCLFuzzTargets
import Testing

/// What libFuzzer has found worth keeping, and changed copies of it. `make fuzz` looks further.
@Suite("Bytes that nobody chose")
struct FuzzTests {
    /// As many changed copies of inputs as each target gets from each of the two seeds: a few seconds in all.
    private static func changes(_ target: FuzzTarget) -> Int {
        switch target {
        case .toMaster, .toPeer, .frames, .masterState: 2000
        case .journal, .codecs, .hash, .master, .peer: 100
        }
    }

    @Test("seeds and corpora are taken", arguments: FuzzTarget.allCases)
    func corpus(target: FuzzTarget) throws {
        let corpus = Corpus.inputs(of: target)
        #expect(!corpus.isEmpty, "Tests/Fuzz/corpora/\(target.rawValue) has moved, or is empty")
        for input in target.seeds + corpus { try target.run(input) }
        try target.run([])
    }

    @Test("changed copies of them are taken", arguments: FuzzTarget.allCases)
    func changed(target: FuzzTarget) throws {
        let inputs = target.seeds + Corpus.inputs(of: target)
        for seed in [1, UInt64.random(in: .min ... .max)] {
            // A trap would leave no other trace of it.
            print("\(target.rawValue) is fuzzed with seed \(seed)")
            var random = RandomSource(seed: seed)
            for _ in 0..<FuzzTests.changes(target) {
                let input = changed(inputs, &random)
                #expect(throws: Never.self, "seed \(seed): \(input)") { try target.run(input) }
            }
        }
    }

    /// One input with a few bytes changed, cut out or put in, or continued as another one.
    private func changed(_ inputs: [[UInt8]], _ random: inout RandomSource) -> [UInt8] {
        var input = inputs[random.below(inputs.count)]
        for _ in 0...random.below(4) {
            let place = random.below(input.count + 1)
            let extreme: UInt8 = [0, 1, 0x7f, 0xff][random.below(4)]
            switch random.below(6) {
            case 0 where place < input.count: input[place] = UInt8(random.below(256))
            case 1 where place < input.count: input[place] = extreme
            case 2 where place < input.count: input[place] ^= 1 << UInt8(random.below(8))
            case 3: input.removeSubrange(place..<min(place + 1 + random.below(8), input.count))
            case 4: input.insert(contentsOf: [UInt8](repeating: extreme, count: 1 + random.below(8)), at: place)
            default:
                let other = inputs[random.below(inputs.count)]
                input = Array(input[..<place]) + other.suffix(random.below(other.count + 1))
            }
        }
        return Array(input.prefix(4096))
    }
}

private enum Corpus {
    static func inputs(of target: FuzzTarget) -> [[UInt8]] {
        let tests = #filePath.split(separator: "/").dropLast(2).joined(separator: "/")
        let folder = "/\(tests)/Fuzz/corpora/\(target.rawValue)"
        return names(in: folder).map { contents(of: "\(folder)/\($0)") }
    }

    private static func names(in folder: String) -> [String] {
        guard let directory = opendir(folder) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name.0) { String(cString: $0) }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }

    private static func contents(of path: String) -> [UInt8] {
        guard let file = fopen(path, "r") else { return [] }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        return Array(bytes.prefix(fread(&bytes, 1, bytes.count, file)))
    }
}
