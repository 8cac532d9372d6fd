extension StatusSnapshotTests {
    static let samples: [String] = []
    static let group = ""
    static let history: [String] = []
}
