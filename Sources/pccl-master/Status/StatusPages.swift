/// What is answered to which path. Texts are made once for each snapshot, when they are asked for.
struct StatusPages {
    /// What is made of a snapshot.
    enum Page: String, CaseIterable {
        case health = "/healthz"
        case metrics = "/metrics"
        case status = "/api/status"
    }
    enum Found {
        case standing(HTTPResponse)
        case seen(Page)
        case missing
    }

    static let index = "there are /, /healthz, /metrics and /api/status here"

    static func find(_ path: String) -> Found {
        if path == "/" { return .standing(LivePage.response) }
        return Page(rawValue: path).map(Found.seen) ?? .missing
    }

    private let snapshot: StatusSnapshot
    private var made: [Page: HTTPResponse] = [:]

    init(_ snapshot: StatusSnapshot) { self.snapshot = snapshot }

    mutating func response(_ page: Page) -> HTTPResponse {
        if let response = made[page] { return response }
        let response =
            switch page {
            case .health: HTTPResponse.text(.ok, (["ok"] + snapshot.remarks).joined(separator: "\n"))
            case .metrics:
                HTTPResponse(
                    status: .ok, contentType: MetricsText.contentType, body: Array(snapshot.metrics.utf8))
            case .status:
                HTTPResponse(
                    status: .ok, contentType: "application/json", body: Array((snapshot.json.written() + "\n").utf8))
            }
        made[page] = response
        return response
    }
}

extension StatusSnapshot {
    /// It serves, and somebody may want to know this.
    var remarks: [String] {
        var remarks: [String] = []
        if case .follows(let leader) = lead {
            remarks.append(leader.map { "it stands by while \($0) leads" } ?? "it stands by, and nobody leads")
        }
        if journal?.hasFailed == true { remarks.append("the journal cannot be written") }
        if isRebuilding { remarks.append("it was started without a journal, and takes over what its peers report") }
        for group in groups where group.phase.name == .recovering {
            remarks.append("\(group.id) waits for \(group.phase.awaited.enumerated(upTo: 8)) to attach again")
        }
        return remarks
    }
}
