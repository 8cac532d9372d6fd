import Glibc

/// A second of the calendar, in UTC.
struct Moment: Comparable, Hashable {
    /// Since 1970.
    var seconds: Int

    static let day = 86_400

    static var now: Moment { Moment(seconds: time(nil)) }

    static func < (a: Moment, b: Moment) -> Bool { a.seconds < b.seconds }

    func adding(days: Int) -> Moment { Moment(seconds: seconds + days * Moment.day) }

    /// Whole ones, towards zero.
    func days(until other: Moment) -> Int { (other.seconds - seconds) / Moment.day }

    private var parts: tm {
        var (time, parts) = (time_t(seconds), tm())
        gmtime_r(&time, &parts)
        return parts
    }

    private static func padded(_ number: CInt, _ width: Int = 2) -> String {
        let digits = String(number)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }

    /// 2026-11-27
    var date: String {
        let parts = parts
        return
            "\(Moment.padded(parts.tm_year + 1900, 4))-\(Moment.padded(parts.tm_mon + 1))-\(Moment.padded(parts.tm_mday))"
    }

    /// 2026-11-27 20:05 UTC
    var minute: String { "\(date) \(Moment.padded(parts.tm_hour)):\(Moment.padded(parts.tm_min)) UTC" }

    /// 2026-11-27T20:05:11Z, as RFC 3339 has it.
    var timestamp: String {
        let parts = parts
        return "\(date)T\(Moment.padded(parts.tm_hour)):\(Moment.padded(parts.tm_min)):\(Moment.padded(parts.tm_sec))Z"
    }

    init(seconds: Int) { self.seconds = seconds }

    init(_ parts: tm) {
        var parts = parts
        seconds = timegm(&parts)
    }

    /// Nil for all that `timestamp` would not have written.
    init?(timestamp: some StringProtocol) {
        let text = Array(timestamp.utf8)
        guard text.count == 20 else { return nil }
        func number(_ range: Range<Int>) -> CInt? {
            text[range].allSatisfy { UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }
                ? CInt(String(decoding: text[range], as: UTF8.self)) : nil
        }
        var parts = tm()
        guard let year = number(0..<4), let month = number(5..<7), let day = number(8..<10),
            let hour = number(11..<13), let minute = number(14..<16), let second = number(17..<19)
        else { return nil }
        parts.tm_year = year - 1900
        parts.tm_mon = month - 1
        parts.tm_mday = day
        parts.tm_hour = hour
        parts.tm_min = minute
        parts.tm_sec = second
        self.init(parts)
        guard self.timestamp == timestamp else { return nil }
    }
}
