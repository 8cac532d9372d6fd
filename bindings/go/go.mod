module swift-pccl/bindings/go

go 1.18
