/// The sizes of windows of device memory, with their reasons.
package struct WindowConfiguration: Sendable {
    /// Of the device's memory, for each communicator that works on it together with others of its host; 0: none. Room for five
    /// large operations at once. What does not fit goes through the host.
    package var windowBytes = 256 << 20
    /// Taken instead where the device has not so much left: room for one.
    package var leastWindowBytes = 64 << 20
    /// Of a buffer, gone through at once. A round costs some tens of microseconds of messages and launches whatever its
    /// size, and 16 MiB take a device of 3 TB/s as long. Members that do not agree go through the host.
    package var roundBytes = 16 << 20

    /// Of the device's memory, kept for copies of inputs that operations overwrite.
    package var spareBytes = 1 << 30

    package init() {}
}
