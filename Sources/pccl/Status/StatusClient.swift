import Glibc
import PCCL
import PCCLBase
import PCCLTransport
import StrictJSON

/// Asks a master's `--http` address how the run stands: one GET for each answer.
struct StatusClient {
    var address: HostAndPort
    /// For each of its addresses, from the first packet to the last.
    var patience: Interval

    struct Problem: Error, Equatable, CustomStringConvertible {
        var description: String
    }

    /// Where `pccl-master --http 48149` is, beside the port of the master itself.
    static let usualPort: UInt16 = 48149
    /// A run of 1,024 peers, the most there can be, takes a quarter of a megabyte.
    private static let answerLimit = 16 << 20

    func status() throws(Problem) -> (text: String, report: JSONValue) {
        let text = try answer(to: "/api/status")
        guard let report = try? JSONValue(parsing: text, allowingRepetition: true),
            report["tool"] == .string("pccl-master")
        else { throw stranger("what it says at /api/status is not a master's") }
        return (text, report)
    }

    private func answer(to path: String) throws(Problem) -> String {
        let addresses: [SocketAddress]
        do throws(PCCLError) {
            addresses = try SocketAddress.all(host: address.host, port: address.port)
        } catch {
            throw Problem(description: error.reason)
        }
        var problems: [Problem] = []
        for candidate in addresses {
            do throws(Problem) {
                return try StatusClient.body(of: get(path, at: candidate)) { stranger($0) }
            } catch {
                problems.append(error)
            }
        }
        throw problems.first ?? Problem(description: "\(address.host) has no address")
    }

    private func stranger(_ reason: String) -> Problem {
        Problem(
            description: "\(address) answers, and is not the --http address of a pccl-master: \(reason). "
                + "It prints where that is when it is started")
    }

    private func get(_ path: String, at candidate: SocketAddress) throws(Problem) -> [UInt8] {
        let deadline = EventLoop.now + patience
        let socket: Socket
        do throws(SystemError) {
            socket = try Socket.connecting(to: candidate)
        } catch {
            throw unreachable(candidate, SystemError.text(error.code))
        }
        guard StatusClient.wait(socket.descriptor, POLLOUT, until: deadline) else {
            throw unreachable(candidate, "nothing comes back for \(patience.seconds) s, not even a refusal")
        }
        let code = socket.connectError
        guard code == 0 else { throw unreachable(candidate, SystemError.text(code)) }
        // It fits into any socket's buffer.
        let request = Array("GET \(path) HTTP/1.1\r\nHost: \(address)\r\nConnection: close\r\n\r\n".utf8)
        _ = send(socket.descriptor, request, request.count, CInt(MSG_NOSIGNAL))
        var answer: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            guard StatusClient.wait(socket.descriptor, POLLIN, until: deadline) else {
                // A master says who it is at once, and then waits to be told who asks.
                if answer.starts(with: StatusClient.greeting) { return answer }
                throw Problem(
                    description: "\(candidate) takes the connection, and has not answered for \(patience.seconds) s")
            }
            let count = recv(socket.descriptor, &block, block.count, 0)
            if count > 0 {
                answer += block[..<count]
                guard answer.count <= StatusClient.answerLimit else { throw stranger("its answer does not end") }
            } else if count == 0 || (errno != EAGAIN && errno != EINTR) {
                return answer
            }
        }
    }

    private static let greeting = [UInt8(0x7f)] + Array("pccl".utf8)

    /// What follows the head of an answer that went well.
    static func body(of answer: [UInt8], _ stranger: (String) -> Problem) throws(Problem) -> String {
        if answer.starts(with: greeting) { throw stranger("peers connect there") }
        if answer.isEmpty { throw stranger("it closes the connection and says nothing") }
        let text = String(decoding: answer, as: UTF8.self)
        // Swift takes CR LF for one character.
        guard text.hasPrefix("HTTP/1."), let end = text.firstRange(of: "\r\n\r\n") else {
            throw stranger("it does not speak HTTP")
        }
        let (head, body) = (text[..<end.lowerBound], String(text[end.upperBound...]))
        let status = head.prefix { !$0.isNewline }.split(separator: " ").dropFirst().joined(separator: " ")
        let said = body.prefix { !$0.isNewline }
        switch status.prefix(3) {
        case "200": return body
        case "503": throw Problem(description: "the master cannot say how it stands: \(said)")
        default: throw stranger("it says \(status)")
        }
    }

    private func unreachable(_ candidate: SocketAddress, _ reason: String) -> Problem {
        Problem(description: "no answer from \(candidate): \(reason). Was pccl-master started with --http there?")
    }

    private static func wait(_ descriptor: CInt, _ event: Int32, until deadline: Instant) -> Bool {
        while true {
            let left = deadline - EventLoop.now
            var watched = pollfd(fd: descriptor, events: Int16(event), revents: 0)
            let count = poll(&watched, 1, CInt(clamping: left.milliseconds + (left.nanoseconds > 0 ? 1 : 0)))
            if count > 0 { return true }
            if count == 0 || errno != EINTR { return false }
        }
    }
}
