import DigitsTraining

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

struct FileMissing: Error {
    let path: String
}

/// Reads `Tests/Data/digits/digits.csv` of this checkout.
func shippedDigits(from testFile: String = #filePath) throws -> DigitsDataset {
    let tests = testFile.split(separator: "/", omittingEmptySubsequences: false).dropLast(2).joined(separator: "/")
    let path = tests + "/Data/digits/digits.csv"
    guard let file = fopen(path, "r") else { throw FileMissing(path: path) }
    defer { fclose(file) }
    var text: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 1 << 16)
    while true {
        let count = fread(&block, 1, block.count, file)
        if count == 0 { break }
        text += block[..<count]
    }
    return try DigitsDataset(parsing: text)
}
