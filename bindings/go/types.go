package pccl

/*
#include <pccl_ext.h>
*/
import "C"

import (
	"reflect"
	"unsafe"
)

// Element is what tensors are of: integers of 8 to 64 bits, Float16, BFloat16, float32, float64.
type Element interface {
	~uint8 | ~int8 | ~uint16 | ~int16 | ~uint32 | ~int32 | ~uint64 | ~int64 | ~float32 | ~float64
}

// Float16 is the bits of an IEEE 754 binary16. Arithmetic is the program's own affair.
type Float16 uint16

// BFloat16 is the bits of a bfloat16: the upper half of a float32.
type BFloat16 uint16

func dataTypeOf[T Element]() C.pcclDataType_t {
	var zero T
	switch any(zero).(type) {
	case Float16:
		return C.pcclFloat16
	case BFloat16:
		return C.pcclBFloat16
	}
	switch reflect.TypeOf(zero).Kind() {
	case reflect.Uint8:
		return C.pcclUint8
	case reflect.Int8:
		return C.pcclInt8
	case reflect.Uint16:
		return C.pcclUint16
	case reflect.Int16:
		return C.pcclInt16
	case reflect.Uint32:
		return C.pcclUint32
	case reflect.Int32:
		return C.pcclInt32
	case reflect.Uint64:
		return C.pcclUint64
	case reflect.Int64:
		return C.pcclInt64
	case reflect.Float32:
		return C.pcclFloat
	default: // the constraint leaves nothing else
		return C.pcclDouble
	}
}

// Op is how contributions become one value: pcclRedOp_t.
type Op int

const (
	// Sum wraps around, of integers.
	Sum Op = C.pcclSum
	// Average is the sum divided by the number of peers that took part; of integers without the fraction.
	Average Op = C.pcclAvg
	// Product wraps around, of integers.
	Product Op = C.pcclProd
	// Maximum is NaN if any contribution is.
	Maximum Op = C.pcclMax
	// Minimum is NaN if any contribution is.
	Minimum Op = C.pcclMin
)

// OnLoss is what becomes of an operation when a peer is lost in it: pcclOnLoss_t.
type OnLoss int

const (
	// Usual is Abort for one operation; for several what suits each.
	Usual OnLoss = iota
	// Abort gives all survivors RankConnectionLost, and their input is whole.
	Abort
	// Resume lets the survivors finish it; elements may be of different numbers of peers.
	Resume
	// ResumeWhole lets the survivors finish it, and all elements are of the same peers.
	ResumeWhole
)

// Codec is what travels of floats instead of themselves: pcclCodec_t.
type Codec int

// docs/collectives.md has the formats and what each loses at most.
const (
	NoCodec          Codec = C.pcclCodecOfDescriptor
	MinMax8Codec     Codec = C.pcclCodecMinMax8
	MinMax16Codec    Codec = C.pcclCodecMinMax16
	MinMax32Codec    Codec = C.pcclCodecMinMax32
	ZeroPoint8Codec  Codec = C.pcclCodecZeroPoint8
	ZeroPoint16Codec Codec = C.pcclCodecZeroPoint16
	ZeroPoint32Codec Codec = C.pcclCodecZeroPoint32
	Int4Codec        Codec = C.pcclCodecInt4
	Int4E8M0Codec    Codec = C.pcclCodecInt4E8M0
	E3M0Codec        Codec = C.pcclCodecE3M0
	E3M0E8M0Codec    Codec = C.pcclCodecE3M0E8M0
	E4M3Codec        Codec = C.pcclCodecE4M3
	E4M3E8M0Codec    Codec = C.pcclCodecE4M3E8M0
	Float16Codec     Codec = C.pcclCodecFloat16
	BFloat16Codec    Codec = C.pcclCodecBFloat16
)

// ReduceOptions is how an operation is carried out: pcclReduceOptions_t, and the tag.
type ReduceOptions struct {
	// Tag tells operations apart that are in flight together. The same at all peers.
	Tag    uint64
	OnLoss OnLoss
	// Codec is the same at all peers, as are the next two.
	Codec Codec
	// BlockElements is how many values share a scale: 32, 64, 128 or 256; 0 for what suits the codec.
	BlockElements uint32
	// StochasticRounding gives a value either of the codes next to it, as often as it is nearer to that.
	StochasticRounding bool
	// ErrorFeedback adds what coding loses of a sum or an average to the next one with this tag.
	ErrorFeedback bool
}

// The most parts of a result that a caller is told of.
const partsAtMost = 1024

func first(options []ReduceOptions) ReduceOptions {
	if len(options) == 0 {
		return ReduceOptions{}
	}
	return options[0]
}

func (options ReduceOptions) native() C.pcclReduceOptions_t {
	native := C.pcclReduceOptions_t{
		struct_size:    C.size_t(unsafe.Sizeof(C.pcclReduceOptions_t{})),
		codec:          C.pcclCodec_t(options.Codec),
		block_elements: C.uint32_t(options.BlockElements),
	}
	switch options.OnLoss {
	case Usual:
		native.on_loss = C.pcclOnLossUsual
	case Abort:
		native.on_loss = C.pcclOnLossAbort
	case Resume:
		native.on_loss = C.pcclOnLossResume
	default:
		native.on_loss = C.pcclOnLossResumeWhole
	}
	if options.StochasticRounding {
		native.rounding = C.pcclRoundingStochastic
	}
	if options.ErrorFeedback {
		native.error_feedback = 1
	}
	return native
}

func (options ReduceOptions) partsAtMost() int {
	if options.OnLoss == Resume || options.OnLoss == ResumeWhole {
		return partsAtMost
	}
	return 0
}

// ReducePart is elements of a result, one after the other, that the same peers have made.
type ReducePart struct {
	// FirstElement counts from the start of the buffer.
	FirstElement, ElementCount uint64
	// WorldSize is of how many peers the contributions are. An average is over so many.
	WorldSize int
}

// ReduceInfo is what an operation did.
type ReduceInfo struct {
	// WorldSize is of how many peers the contributions are.
	WorldSize int
	// SentBytes and ReceivedBytes are of tensors.
	SentBytes, ReceivedBytes uint64
	// Parts tells which elements are of how many peers; of an all-reduce with an OnLoss that resumes, otherwise empty.
	Parts []ReducePart
}

func infoOf(native C.pcclReduceInfo_t, parts []C.pcclReducePart_t) ReduceInfo {
	info := ReduceInfo{
		WorldSize:     int(native.local_world_size),
		SentBytes:     uint64(native.tx_bytes),
		ReceivedBytes: uint64(native.rx_bytes),
	}
	for _, part := range parts {
		info.Parts = append(info.Parts, ReducePart{
			FirstElement: uint64(part.first_element),
			ElementCount: uint64(part.element_count),
			WorldSize:    int(part.world_size),
		})
	}
	return info
}
