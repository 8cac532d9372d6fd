import PCCLBase
import StrictJSON
import Testing

@testable import pccl_master

@Suite("What is said to etcd, and what it answers")
struct EtcdMessagesTests {
    @Test("base64, as in RFC 4648")
    func base64() {
        for (plain, text) in [
            ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            #expect(Base64.text(of: Array(plain.utf8)) == text)
            #expect(Base64.bytes(of: text) == Array(plain.utf8))
        }
        let all = (0...UInt8.max).map { $0 }
        #expect(Base64.bytes(of: Base64.text(of: all)) == all)
        for text in ["Zg", "Zg=", "Z===", "====", "Zm9v!", "Zm=v", "Zm9vZg==Zm9v", "Zm9\u{e9}"] {
            #expect(Base64.bytes(of: text) == nil, "\(text)")
        }
    }

    @Test("requests, as etcd's gateway wants them")
    func requests() {
        func json(_ request: EtcdRequest) -> String {
            request.json.written().filter { !$0.isWhitespace }
        }
        #expect(json(.grantLease(seconds: 5)) == #"{"TTL":"5"}"#)
        #expect(json(.keepAlive(lease: 1 << 62)) == #"{"ID":"4611686018427387904"}"#)
        #expect(json(.get(key: "/a")) == #"{"key":"L2E="}"#)
        let transaction = EtcdTransaction(
            conditions: [.made(key: "/a", at: 7), .written(key: "/b", at: 0)],
            then: [.put(key: "/b", value: [1], lease: 3), .delete(from: "/c", to: "/d")], otherwise: [.get(key: "/a")])
        #expect(
            json(.transact(transaction)) == """
                {"compare":[{"key":"L2E=","target":"CREATE","result":"EQUAL","create_revision":"7"},\
                {"key":"L2I=","target":"MOD","result":"EQUAL","mod_revision":"0"}],\
                "success":[{"request_put":{"key":"L2I=","value":"AQ==","lease":"3"}},\
                {"request_delete_range":{"key":"L2M=","range_end":"L2Q="}}],\
                "failure":[{"request_range":{"key":"L2E="}}]}
                """)
        let bytes = EtcdExchange.bytes(of: .get(key: "/a"), to: SocketAddress(.v4(0x7f00_0001), port: 2379))
        let text = String(decoding: bytes, as: UTF8.self)
        #expect(text.hasPrefix("POST /v3/kv/range HTTP/1.0\r\nHost: 127.0.0.1:2379\r\n"))
        #expect(text.contains("\r\nContent-Length: 19\r\n\r\n{"))
    }

    /// As etcd 3.4.23 says it.
    private func answer(
        _ request: EtcdRequest, _ body: String, status: String = "200 OK"
    ) -> Result<EtcdAnswer, EtcdFailure> {
        let head = "HTTP/1.0 \(status)\r\nContent-Type: application/json\r\n\r\n"
        return EtcdExchange.answer(to: request, Array((head + body).utf8))
    }

    private static let header =
        #""header":{"cluster_id":"324952591200643719","member_id":"3319814642761637952","revision":"2","raft_term":"2"}"#
    private static let transaction = EtcdTransaction(conditions: [], then: [], otherwise: [])

    @Test("answers, of which what is zero is left out")
    func answers() {
        let header = EtcdMessagesTests.header
        #expect(
            answer(.grantLease(seconds: 1), "{\(header),\"ID\":\"2324035660308469509\",\"TTL\":\"1\"}")
                == .success(.granted(lease: 2_324_035_660_308_469_509, seconds: 1)))
        #expect(
            answer(.keepAlive(lease: 77), "{\"result\":{\(header),\"ID\":\"77\",\"TTL\":\"5\"}}\n")
                == .success(.keptAlive(seconds: 5)))
        #expect(
            answer(.keepAlive(lease: 77), "{\"result\":{\(header),\"ID\":\"77\"}}\n")
                == .success(.keptAlive(seconds: 0)))
        #expect(answer(.revoke(lease: 77), "{\(header)}") == .success(.revoked))
        #expect(answer(.get(key: "/a"), "{\(header)}") == .success(.found(nil)))
        let entry =
            #"{"key":"L2wvbGVhZGVy","create_revision":"2","mod_revision":"3","version":"1","value":"YQ==","lease":"9"}"#
        let value = EtcdValue(bytes: [97], madeAt: 2, writtenAt: 3, lease: 9)
        #expect(answer(.get(key: "/a"), "{\(header),\"kvs\":[\(entry)],\"count\":\"1\"}") == .success(.found(value)))
        #expect(
            answer(
                .transact(EtcdMessagesTests.transaction),
                """
                {\(header),"succeeded":true,"responses":[{"response_put":{"header":{"revision":"2"}}},\
                {"response_range":{"header":{"revision":"2"}}}]}
                """) == .success(.transacted(isDone: true, revision: 2, found: [nil])))
        #expect(
            answer(
                .transact(EtcdMessagesTests.transaction),
                "{\(header),\"responses\":[{\"response_range\":{\"kvs\":[\(entry)]}},{\"response_range\":{}}]}")
                == .success(.transacted(isDone: false, revision: 2, found: [value, nil])))
    }

    @Test("a refusal is certain, and whatever else goes wrong is not")
    func failures() {
        func isRefused(_ result: Result<EtcdAnswer, EtcdFailure>) -> Bool? {
            switch result {
            case .failure(.refused): true
            case .failure(.unanswered): false
            case .success: nil
            }
        }
        let noLease =
            #"{"error":"etcdserver: requested lease not found","message":"etcdserver: requested lease not found","code":5}"#
        #expect(
            answer(.revoke(lease: 1), noLease, status: "404 Not Found")
                == .failure(.refused("etcdserver: requested lease not found")))
        let noLeader = #"{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}"#
        let request = EtcdRequest.transact(EtcdMessagesTests.transaction)
        #expect(isRefused(answer(request, noLeader, status: "503 Service Unavailable")) == false)
        #expect(isRefused(answer(request, "<html>", status: "502 Bad Gateway")) == false)
        #expect(isRefused(answer(request, "{}")) == false)
        #expect(isRefused(answer(.grantLease(seconds: 1), "{}")) == false)
        #expect(isRefused(answer(.keepAlive(lease: 1), #"{"error":{"message":"x","grpc_code":14}}"#)) == false)
        #expect(isRefused(answer(.get(key: "/a"), #"{"kvs":[{"value":"!"}]}"#)) == false)
        #expect(isRefused(EtcdExchange.answer(to: request, Array("SSH-2.0-OpenSSH_9.2\r\n".utf8))) == false)
        #expect(isRefused(EtcdExchange.answer(to: request, [])) == false)
    }

    @Test("an answer that is cut short anywhere is none")
    func cutShort() {
        let body = "{\(EtcdMessagesTests.header),\"ID\":\"23\",\"TTL\":\"1\"}"
        let whole = Array("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n\(body)".utf8)
        for length in whole.indices {
            guard
                case .failure(.unanswered) = EtcdExchange.answer(
                    to: .grantLease(seconds: 1), Array(whole[..<length]))
            else {
                Issue.record("taken for whole at \(length)")
                continue
            }
        }
    }

    @Test("where etcd is")
    func locations() {
        let several = EtcdLocation(parsing: "etcd://10.0.0.1:2379,[2001:db8::1]:2379,etcd.example:23/pccl/run-1/")
        #expect(
            several?.endpoints == [
                .init(host: "10.0.0.1", port: 2379), .init(host: "2001:db8::1", port: 2379),
                .init(host: "etcd.example", port: 23),
            ])
        #expect(several?.prefix == "/pccl/run-1")
        #expect(several?.stateKey == "/pccl/run-1/state")
        for wrong in [
            "", "etcd://", "etcd://a:1", "etcd://a:1/", "etcd://a/x", "etcd://a:0/x", "etcd://a:1,/x", "etcd://:1/x",
            "http://a:1/x", "etcd://2001:db8::1:2379/x", "etcd://a:1/x y", "etcd://a:70000/x",
        ] {
            #expect(EtcdLocation(parsing: wrong) == nil, "\(wrong)")
        }
        #expect(StoreOption(argument: "file:/var/lib/pccl/") == .folder("/var/lib/pccl"))
        #expect(StoreOption(argument: "file:/") == .folder("/"))
        for wrong in ["file:", "/var/lib/pccl", "etcd:a:1/x"] {
            #expect(StoreOption(argument: wrong) == nil, "\(wrong)")
        }
        if case .etcd(let location) = StoreOption(argument: "etcd://a:1/x") {
            #expect(location.prefix == "/x")
        } else {
            Issue.record("not understood")
        }
    }

    @Test("a state in etcd: there and back, and cut short or lengthened at every place")
    func storedStates() throws {
        let stored = StoredState([1, 2, 3], term: 5, number: 6)
        let bytes = stored.bytes
        #expect(try StoredState(bytes) == stored)
        for length in bytes.indices {
            #expect(throws: StoredState.Problem.self) { try StoredState(Array(bytes[..<length])) }
        }
        #expect(throws: StoredState.Problem.self) { try StoredState(bytes + [0]) }
        for (place, lie) in [(7, 2), (24, 1), (28, 2), (28, 255)] as [(Int, UInt8)] {
            var changed = bytes
            changed[place] = lie
            #expect(throws: StoredState.Problem.self) { try StoredState(changed) }
        }
        let large = StoredState([UInt8](repeating: 7, count: 2 * StoredState.partBytes + 1), term: 5, number: 6)
        #expect(large.parts == 3 && large.state.isEmpty)
        #expect(try StoredState(large.bytes) == large)
        #expect(StoredState(term: 5, number: 6, parts: 4, byteCount: large.byteCount, state: []).bytes.count == 36)
        #expect(throws: StoredState.Problem.self) {
            try StoredState(StoredState(term: 5, number: 6, parts: 4, byteCount: large.byteCount, state: []).bytes)
        }
    }
}
