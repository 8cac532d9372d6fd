/// The release this tool belongs to: the one of the Makefile, which a test compares.
let toolVersion = "0.1.0"
