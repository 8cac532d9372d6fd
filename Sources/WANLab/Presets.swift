import PCCLBase

extension LabConfiguration {
    package struct Preset: Sendable {
        package var name: String
        package var summary: String
        package var defaultNodeCount: Int
        var smallestNodeCount = 2
        var links: @Sendable (Int) -> [(String, [(FigureSetting.Figure, Double)])]
        var sites: @Sendable (Int) -> [[Int]] = { _ in [] }
    }

    /// A round trip is split evenly between the two directions. Loss is that of one direction. Where there is a rate, what
    /// may wait is that rate times the round trip.
    package static let presets: [Preset] = [
        Preset(
            name: "lan", summary: "0.1 ms round trip, as fast as the lab goes", defaultNodeCount: 2,
            links: { _ in [("path:*", [(.delay, 0.05)])] }),
        Preset(
            name: "europe", summary: "20 ms round trip, 1 Gbit/s at each node", defaultNodeCount: 2,
            links: { _ in
                [("access:*", [(.rate, 1000), (.queueTime, 20)]), ("path:*", [(.delay, 10)])]
            }),
        Preset(
            name: "transatlantic", summary: "100 ms round trip, 500 Mbit/s at each node, 0.01 % loss",
            defaultNodeCount: 2,
            links: { _ in
                [("access:*", [(.rate, 500), (.queueTime, 100)]), ("path:*", [(.delay, 50), (.loss, 0.01)])]
            }),
        Preset(
            name: "lossy", summary: "60 ms round trip, 200 Mbit/s at each node, 1 % loss", defaultNodeCount: 2,
            links: { _ in
                [("access:*", [(.rate, 200), (.queueTime, 60)]), ("path:*", [(.delay, 30), (.loss, 1)])]
            }),
        Preset(
            name: "asymmetric",
            summary: "40 ms round trip, 500 Mbit/s at each node but the last, which has a fifth of it",
            defaultNodeCount: 4, smallestNodeCount: 3,
            links: { nodes in
                [
                    ("access:*", [(.rate, 500), (.queueTime, 40)]), ("access:\(nodes - 1)", [(.rate, 100)]),
                    ("path:*", [(.delay, 20)]),
                ]
            }),
        Preset(
            name: "two-sites",
            summary: "two halves, 0.1 ms round trip within; 80 ms between, over one pipe of 200 Mbit/s each way",
            defaultNodeCount: 4,
            links: { _ in
                [("path:*", [(.delay, 0.05)]), ("trunk:*", [(.rate, 200), (.delay, 39.95), (.queueTime, 80)])]
            },
            sites: { nodes in [Array(0..<(nodes + 1) / 2), Array((nodes + 1) / 2..<nodes)] }),
    ]

    /// Nil for a name that is none.
    package init?(preset name: String, nodeCount: Int?) throws(LabError) {
        guard let preset = Self.presets.first(where: { $0.name == name }) else { return nil }
        let nodes = nodeCount ?? preset.defaultNodeCount
        guard (preset.smallestNodeCount...Self.nodeLimits.upperBound).contains(nodes) else {
            throw LabError(
                "\(name) has \(preset.smallestNodeCount) to \(Self.nodeLimits.upperBound) nodes, not \(nodes)")
        }
        self.init(nodeCount: nodes)
        sites = preset.sites(nodes)
        for (link, figures) in preset.links(nodes) {
            links.append(LinkSetting(name: try LinkName(link), figures: figures.map { FigureSetting($0, $1) }))
        }
        try check()
    }
}
