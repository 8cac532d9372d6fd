/// A queue in memory that is taken once and only grows: nothing is allocated per element.
struct Ring<Element> {
    private var elements: [Element?] = Array(repeating: nil, count: 16)
    private var head = 0
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }
    var first: Element? { isEmpty ? nil : elements[head] }

    /// Counted from the oldest.
    subscript(index: Int) -> Element? { elements[(head + index) & (elements.count - 1)] }

    mutating func append(_ element: Element) {
        if count == elements.count { grow() }
        elements[(head + count) & (elements.count - 1)] = element
        count += 1
    }

    mutating func popFirst() -> Element? {
        guard count > 0 else { return nil }
        defer {
            head = (head + 1) & (elements.count - 1)
            count -= 1
        }
        return elements[head]
    }

    /// Behind the last element that `belongsBefore` says it must not overtake.
    mutating func insert(_ element: Element, where belongsBefore: (Element) -> Bool) {
        append(element)
        let mask = elements.count - 1
        var place = count - 1
        while place > 0, let other = elements[(head + place - 1) & mask], belongsBefore(other) {
            elements[(head + place) & mask] = other
            place -= 1
        }
        elements[(head + place) & mask] = element
    }

    private mutating func grow() {
        let old = elements
        elements = Array(repeating: nil, count: old.count * 2)
        for index in 0..<count { elements[index] = old[(head + index) & (old.count - 1)] }
        head = 0
    }
}
