/// The release of swift-pccl that this library belongs to.
public enum Release {
    /// As the Makefile has it, which a test compares.
    public static let version = "0.1.0"
}
