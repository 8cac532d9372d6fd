/// What the parent and its peers say to each other, whatever language a peer is written in: a word, and `key=value`s
/// separated by spaces. The value of `text` goes on to the end of the line.
///
///     peer to parent: hello rank=1 [port=4711] [text=WHY IT CANNOT] · ready text=… · cannot text=… · failed text=…
///                     done cpu=NANOSECONDS extra=BYTES wrong=ELEMENTS times=NANOSECONDS,…
///     parent to peer: begin peers=2 type=float32 op=sum inplace=0 tags=1 stripes=0 optimize=0 folder=…
///                     [master=HOST:PORT group=0] [ports=…] [storehost=… storeport=29500 serves=1]
///                     turn bytes=… warmups=… calls=… callsperfill=… pause=MILLISECONDS · end
struct ControlLine: Equatable {
    let word: String
    private var values: [String: String] = [:]

    init(_ word: String) {
        self.word = word
    }

    init(_ word: String, text: String) {
        self.word = word
        values["text"] = String(text.map { $0.isNewline ? " " : $0 })
    }

    init(parsing line: String) {
        var rest = Substring(line)
        word = String(rest.prefix { $0 != " " })
        rest = rest.dropFirst(word.count).drop { $0 == " " }
        while !rest.isEmpty {
            let key = String(rest.prefix { $0 != "=" && $0 != " " })
            rest = rest.dropFirst(key.count)
            var value = rest.hasPrefix("=") ? rest.dropFirst() : ""
            if key != "text" { value = value.prefix { $0 != " " } }
            values[key] = String(value)
            rest = rest.dropFirst(value.count + (rest.hasPrefix("=") ? 1 : 0)).drop { $0 == " " }
        }
    }

    subscript(key: String) -> String? {
        get { values[key] }
        set { values[key] = newValue }
    }

    func text(_ key: String) throws(BenchFailure) -> String {
        guard let value = values[key] else { throw isMalformed(key) }
        return value
    }

    func number(_ key: String) throws(BenchFailure) -> Int {
        guard let number = values[key].flatMap({ Int($0) }), number >= 0 else { throw isMalformed(key) }
        return number
    }

    func numbers(_ key: String) throws(BenchFailure) -> [Int] {
        let numbers = try text(key).split(separator: ",").map { Int($0) }
        guard !numbers.contains(nil) else { throw isMalformed(key) }
        return numbers.compactMap { $0 }
    }

    func isMalformed(_ key: String) -> BenchFailure { BenchFailure("a line with a bad or no \(key): \(written)") }

    var written: String {
        let keys = values.keys.filter { $0 != "text" }.sorted()
        let pairs = keys.map { "\($0)=\(values[$0] ?? "")" } + (values["text"].map { ["text=\($0)"] } ?? [])
        return ([word] + pairs).joined(separator: " ")
    }
}
