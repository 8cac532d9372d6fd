import Glibc
import PCCLFuzzTargets

/// `PCCL_FUZZ_TARGET` names the target; with `PCCL_FUZZ_SEEDS` its seeds are written to that folder instead.
private let target: FuzzTarget = {
    guard let name = getenv("PCCL_FUZZ_TARGET"), let target = FuzzTarget(rawValue: String(cString: name)) else {
        let names = FuzzTarget.allCases.map(\.rawValue).joined(separator: ", ")
        fatalError("PCCL_FUZZ_TARGET names no target; there are: \(names)")
    }
    return target
}()

@_cdecl("LLVMFuzzerInitialize")
public func initialize(
    _: UnsafeMutablePointer<CInt>, _: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?>
) -> CInt {
    guard let folder = getenv("PCCL_FUZZ_SEEDS") else { return 0 }
    for (i, seed) in target.seeds.enumerated() {
        guard let file = fopen("\(String(cString: folder))/seed-\(i)", "w") else { exit(1) }
        fwrite(seed, 1, seed.count, file)
        fclose(file)
    }
    exit(0)
}

@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    do {
        try target.run(Array(UnsafeBufferPointer(start: bytes, count: count)))
    } catch {
        // How libFuzzer learns of it.
        fatalError("\(error)")
    }
    return 0
}
