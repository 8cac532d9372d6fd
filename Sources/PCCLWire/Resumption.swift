import PCCLBase

extension ByteWriter {
    mutating func write(_ part: ResultPart) {
        write(UInt64(part.elements.lowerBound))
        write(UInt64(part.elements.count))
        write(UInt16(clamping: part.worldSize))
    }

    package mutating func write(_ resumption: Resumption) {
        write(resumption.number)
        write(resumption.kept) { w, kept in
            w.write(kept.part)
            // A bit for each rank, up to that of the last holder.
            var bits = [UInt8](repeating: 0, count: (kept.holders.last ?? 0) / 8 + 1)
            for rank in kept.holders { bits[rank / 8] |= 1 << (rank % 8) }
            w.write(bits) { $0.write($1) }
        }
    }
}

extension ByteReader {
    mutating func readParts() throws(WireError) -> [ResultPart] {
        let parts = try readList("final parts", limit: ResultPart.limitOfAll) { (r) throws(WireError) in
            try r.readPart()
        }
        guard parts.isValid(elementCount: .max) else { throw .unknownValue(field: "order of parts", value: 0) }
        return parts
    }

    package mutating func readResumption() throws(WireError) -> Resumption {
        let number: UInt64 = try read()
        let kept = try readList("kept parts", limit: ResultPart.limitOfAll) { (r) throws(WireError) in
            let part = try r.readPart()
            let bits = try r.readList("holders", limit: WireLimits.members / 8) { (r) throws(WireError) in
                try r.read(UInt8.self)
            }
            return KeptPart(
                part,
                holders: bits.indices.flatMap { i in (0..<8).filter { bits[i] >> $0 & 1 == 1 }.map { i * 8 + $0 } })
        }
        let resumption = Resumption(number: number, kept: kept)
        guard resumption.isValid(elementCount: .max, worldSize: WireLimits.members) else {
            throw .unknownValue(field: "order of kept parts", value: 0)
        }
        return resumption
    }

    private mutating func readPart() throws(WireError) -> ResultPart {
        let start: UInt64 = try read()
        let count: UInt64 = try read()
        let worldSize: UInt16 = try read()
        let (end, overflows) = start.addingReportingOverflow(count)
        guard !overflows, let start = Int(exactly: start), let end = Int(exactly: end) else {
            throw .unknownValue(field: "end of a part", value: count)
        }
        return ResultPart(elements: start..<end, worldSize: Int(worldSize))
    }
}
