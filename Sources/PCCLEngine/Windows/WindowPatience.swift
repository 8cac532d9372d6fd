/// Who goes to windows, and hears that another member does not, has to copy its input to the host late, on a thread for which
/// others wait. Where one member's buffers are on the host, or it has no device, that would be every time. So after each no
/// the inputs of that many more operations are copied by whoever launches them, in case they are of use; of twice as many as
/// after the one before, until one operation has gone well.
struct WindowPatience {
    private static let most = 1023
    private var pause = 0
    private var left = 0

    /// No is what is expected.
    var isWaiting: Bool { left > 0 }

    /// An operation begins that may go through windows.
    mutating func pass() { if left > 0 { left -= 1 } }
    mutating func refused() {
        pause = min(2 * pause + 1, WindowPatience.most)
        left = pause
    }
    mutating func succeeded() { (pause, left) = (0, 0) }
}
