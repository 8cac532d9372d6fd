// swift-tools-version: 6.3
import PackageDescription

// A warning is an error where a machine judges (CI sets CI=true), and a warning on a contributor's newer compiler.
let strict: [SwiftSetting] = Context.environment["CI"] == nil ? [] : [.treatAllWarnings(as: .error)]

// Sanitizers and profilers want the kernels without run-time dispatch: ifunc resolvers run before they are ready.
let plainKernels = Context.environment["PCCL_PLAIN_KERNELS"] != nil

let kernelSettings: [CSetting] = plainKernels ? [.define("PCCL_PLAIN_KERNELS")] : []

func room(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], resources: [Resource] = []) -> Target {
    .testTarget(name: name, dependencies: dependencies, resources: resources, swiftSettings: strict)
}

let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")

// The order below is the order of the rooms in docs/architecture.md: a target may name only targets above it.
let package = Package(
    name: "swift-pccl",
    products: [
        .library(name: "PCCL", targets: ["PCCL"]),
        // Installed as libpccl.so by the Makefile; a product may not share the name of the tool `pccl`.
        .library(name: "PCCLABI", type: .dynamic, targets: ["PCCLABI"]),
        .executable(name: "pccl", targets: ["pccl"]),
        .executable(name: "pccl-master", targets: ["pccl-master"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0")
    ],
    targets: [
        .systemLibrary(name: "CPCCL", path: "include"),
        .systemLibrary(name: "CUV", pkgConfig: "libuv", providers: [.apt(["libuv1-dev"])]),
        .systemLibrary(name: "COpenSSL", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .target(name: "CKernels", cSettings: kernelSettings),
        .target(name: "CShims"),
        .target(name: "CTLS", linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto")]),
        .target(name: "CSnapshots", dependencies: ["CKernels"]),
        .target(name: "CCUDA", exclude: ["kernels"]),

        room("StrictJSON"),
        room("PCCLBase"),
        room("PCCLWire", ["PCCLBase"]),
        room("PCCLRecorder", ["PCCLBase", "PCCLWire"]),
        room("PCCLMembership", ["PCCLBase", "PCCLWire"]),
        room("PCCLSchedule", ["PCCLBase"]),
        room("PCCLCompute", ["PCCLBase", "CKernels", "CCUDA", "CShims", "COpenSSL", "CZstd"]),
        room("PCCLSnapshot", ["PCCLBase", "PCCLCompute", "StrictJSON", "CSnapshots"]),
        room("PCCLTransport", ["PCCLBase", "PCCLWire", "PCCLRecorder", "PCCLCompute", "CShims", "CTLS", "CUV"]),
        room(
            "PCCLEngine",
            ["PCCLBase", "PCCLWire", "PCCLRecorder", "PCCLSchedule", "PCCLCompute", "PCCLTransport"]),
        room(
            "PCCLSession",
            [
                "PCCLBase", "PCCLWire", "PCCLRecorder", "PCCLMembership", "PCCLCompute", "PCCLEngine", "PCCLTransport",
                "CShims",
            ]),
        room(
            "PCCL",
            [
                "PCCLBase", "PCCLWire", "PCCLRecorder", "PCCLCompute", "PCCLSnapshot", "PCCLMembership", "PCCLEngine",
                "PCCLTransport",
                "PCCLSession",
            ]),
        room("PCCLABI", ["PCCL", "PCCLTransport", "CPCCL", "CShims"]),
        room("PCCLSimulator", ["PCCLBase", "PCCLWire", "PCCLMembership", "PCCLSchedule"]),
        room("DigitsTraining"),
        room("WANLab", ["PCCLBase", "StrictJSON"]),

        .executableTarget(
            name: "pccl-master",
            dependencies: [
                "PCCL", "PCCLBase", "PCCLWire", "PCCLMembership", "PCCLTransport", "PCCLSession", "StrictJSON",
                argumentParser,
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "pccl",
            dependencies: [
                "PCCLBase", "PCCLWire", "PCCLRecorder", "PCCLMembership", "PCCLCompute", "PCCL", "PCCLTransport",
                "PCCLSession", "PCCLSimulator", "DigitsTraining", "StrictJSON", "WANLab", "CShims", "COpenSSL",
                argumentParser,
            ],
            swiftSettings: strict),

        tests("DigitsTrainingTests", ["DigitsTraining"]),
        tests("WANLabTests", ["WANLab", "PCCLBase", "StrictJSON"]),
        tests(
            "PCCLMasterTests",
            [
                "pccl-master", "PCCLBase", "PCCLWire", "PCCLMembership", "PCCLSession", "PCCLTransport", "StrictJSON",
                "PCCLTestSupport",
            ]),
        tests(
            "PCCLToolTests",
            [
                "pccl", "PCCL", "PCCLBase", "PCCLWire", "PCCLRecorder", "PCCLCompute", "PCCLTransport", "StrictJSON",
                argumentParser,
            ]),
        tests("PCCLTidyTests", ["PCCL"]),
        tests("PCCLBaseTests", ["PCCLBase"]),
        tests("PCCLWireTests", ["PCCLBase", "PCCLWire"]),
        tests("PCCLRecorderTests", ["PCCLBase", "PCCLWire", "PCCLRecorder"]),
        tests("PCCLMembershipTests", ["PCCLBase", "PCCLWire", "PCCLMembership"]),
        tests("PCCLScheduleTests", ["PCCLBase", "PCCLSchedule"]),
        tests("PCCLSimulatorTests", ["PCCLBase", "PCCLWire", "PCCLMembership", "PCCLSimulator"]),
        .target(
            name: "PCCLTestSupport", dependencies: ["PCCLBase", "PCCLTransport"], path: "Tests/PCCLTestSupport",
            swiftSettings: strict),
        tests(
            "PCCLTransportTests",
            ["PCCLBase", "PCCLWire", "PCCLCompute", "PCCLTransport", "PCCLTestSupport", "CShims"]),
        tests(
            "PCCLEngineTests",
            [
                "PCCLBase", "PCCLCompute", "PCCLWire", "PCCLSchedule", "PCCLMembership", "PCCLTransport", "PCCLEngine",
                "PCCLTestSupport",
            ]),
        tests(
            "PCCLSessionTests",
            [
                "PCCLBase", "PCCLWire", "PCCLRecorder", "PCCLMembership", "PCCLTransport", "PCCLEngine", "PCCLSession",
                "PCCLTestSupport",
            ]),
        tests("PCCLTests", ["PCCL", "PCCLBase", "PCCLRecorder", "PCCLTransport", "PCCLTestSupport"]),
        // Shared with libFuzzer, which Tests/Fuzz/run.sh builds by itself.
        .target(
            name: "PCCLFuzzTargets",
            dependencies: ["PCCLBase", "PCCLWire", "PCCLMembership", "PCCLCompute", "PCCLSession", "CKernels"],
            path: "Tests/Fuzz/Targets", swiftSettings: strict),
        tests("PCCLFuzzTests", ["PCCLBase", "PCCLFuzzTargets"]),
        tests("PCCLComputeTests", ["PCCLBase", "PCCLCompute", "CKernels"]),
        tests("PCCLSnapshotTests", ["PCCLBase", "PCCLCompute", "PCCLSnapshot", "PCCLTestSupport"]),
    ],
    swiftLanguageModes: [.v6]
)
