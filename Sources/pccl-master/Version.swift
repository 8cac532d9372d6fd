/// The release this daemon belongs to: the one of the Makefile, which a test compares.
let masterVersion = "0.1.0"
