import StrictJSON

/// What was found about one thing, and what to do about it.
struct Finding: Equatable {
    /// From what is well to what will not work.
    enum Weight: String, CaseIterable {
        case ok
        /// To be known; nothing has to be done.
        case note
        /// Works, and would work better.
        case change
        /// Will not work.
        case fault
    }

    enum Area: String, CaseIterable {
        case kernel, limits, ports, clock, environment, gpu, reach
    }

    struct Change: Equatable {
        /// To be typed, one after the other.
        var commands: [String]
        /// What is better then, or works.
        var brings: String
    }

    var area: Area
    /// The setting, limit or address.
    var subject: String
    var weight: Weight
    var text: String
    var change: Change?
    /// For programs: what the sentence says in numbers.
    var figures: [JSONValue.Member] = []
}

extension Finding {
    static func ok(_ area: Area, _ subject: String, _ text: String) -> Finding {
        Finding(area: area, subject: subject, weight: .ok, text: text)
    }

    static func note(
        _ area: Area, _ subject: String, _ text: String, _ commands: [String] = [], brings: String = ""
    ) -> Finding {
        let change = commands.isEmpty ? nil : Change(commands: commands, brings: brings)
        return Finding(area: area, subject: subject, weight: .note, text: text, change: change)
    }

    static func change(
        _ area: Area, _ subject: String, _ text: String, _ commands: [String], brings: String
    ) -> Finding {
        Finding(
            area: area, subject: subject, weight: .change, text: text,
            change: Change(commands: commands, brings: brings))
    }

    static func fault(
        _ area: Area, _ subject: String, _ text: String, _ commands: [String], brings: String
    ) -> Finding {
        Finding(
            area: area, subject: subject, weight: .fault, text: text,
            change: Change(commands: commands, brings: brings))
    }

    func with(_ figures: [JSONValue.Member]) -> Finding {
        var finding = self
        finding.figures = figures
        return finding
    }
}
