import PCCLCompute

/// The caller's memory, lent to an operation until its outcome is known. In place when both are the same.
package struct ReduceBuffers: @unchecked Sendable {
    package let send: UnsafeRawPointer
    package let receive: UnsafeMutableRawPointer
    /// Where coding has losses that count.
    package let feedback: ErrorFeedback?
    package init(send: UnsafeRawPointer, receive: UnsafeMutableRawPointer, feedback: ErrorFeedback? = nil) {
        self.send = send
        self.receive = receive
        self.feedback = feedback
    }
    var isInPlace: Bool { send == UnsafeRawPointer(receive) }
}

/// Payload bytes that an operation has moved.
package struct Traffic: Hashable, Sendable {
    package var sentBytes: UInt64 = 0
    package var receivedBytes: UInt64 = 0
    package init() {}
    package static func += (a: inout Traffic, b: Traffic) {
        a.sentBytes += b.sentBytes
        a.receivedBytes += b.receivedBytes
    }
}
