"""Hostile and damaged files: each is refused, says what is wrong, within a second, in little memory, leaving nothing.

Every case is (file name, content, what the message must say). The files of a case that needs several are given as a
dictionary; the first is the one read.
"""

import os
import pickle
import struct
import tarfile
import time
import tracemalloc

import numpy as np
import pytest

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights import read_weights
from tests.common.weight_files import (
    bytes_field,
    gzipped,
    pir_program,
    program,
    raw_record,
    record,
    safetensors_file,
    tar_file,
    tar_member,
    tar_of,
    tree,
    varint_field,
    zip_file,
    zip_member,
)

SECOND = 1.0
MEMORY = 100 << 20
GOOD = raw_record()
W = np.arange(6, dtype=np.float32).reshape(2, 3)
EMPTY_ARCHIVE = "no weights in this folder"
MARKER = "slim_distill_was_here"


class Call:
    """Pickles as a call of `function`; the reading side would make it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def global_call(module: str, name: str, arguments: bytes = b"(t") -> bytes:
    """Protocol 2: module.name(*arguments), for functions that cannot be imported here."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"R."


def short_text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def array_pickle(shape: bytes, data: bytes, code: str = "f4", count: int = 1) -> bytes:
    """Protocol 2-4: {"w": array} with a shape (pickled tuple), element type and data that need not fit."""
    dtype = b"cnumpy\ndtype\n" + short_text(code) + b"K\x00K\x01\x87R"
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return b"\x80\x04}" + short_text("w") + head + b"(K\x01" + shape + dtype + b"\x89" + data + b"tbs."


def with_one(**entry) -> dict:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}


RECORDS = {
    **{
        f"cut_in_{what.replace(' ', '_')}": (
            "net/w",
            GOOD[:size],
            rf"truncated: {what} (of shape \[2\] float32 )?needs",
        )
        for what, size in {
            "the record version": 3,
            "the number of LoD levels": 11,
            "the tensor version": 15,
            "the length of the tensor description": 19,
            "the tensor description": 22,
            "the tensor data": len(GOOD) - 1,
        }.items()
    },
    "cut_in_lod_size": ("net/w", raw_record(levels=1)[:18], "truncated: the size of LoD level 0"),
    "cut_in_lod": (
        "net/w",
        raw_record(levels=1, lod=struct.pack("<Q", 1 << 40)),
        "truncated: LoD level 0 needs 1099511627776",
    ),
    "lod_levels_absurd": ("net/w", raw_record(levels=1 << 60), "1152921504606846976 LoD levels"),
    "wrong_version": ("net/w", raw_record(version=0x46445089), "not a Paddle tensor record: version"),
    "wrong_tensor_version": ("net/w", raw_record(tensor_version=7), "tensor version 7"),
    "description_negative": ("net/w", raw_record(length=-5), "tensor description of -5 bytes"),
    "description_absurd": ("net/w", raw_record(length=2**31 - 1), "tensor description of 2147483647 bytes"),
    "description_empty": ("net/w", raw_record(description=b""), "tensor description of 0 bytes"),
    "dims_absurd": (
        "net/w",
        raw_record((1 << 40,)),
        "the tensor data of shape .* needs 4398046511104 bytes, 8 are left",
    ),
    "dims_negative": ("net/w", raw_record((-1, 2)), "negative dimension -1"),
    "dims_overflow": ("net/w", raw_record((1 << 33, 1 << 33)), "overflow"),
    "dims_overflow_to_zero": ("net/w", raw_record((1 << 32, 1 << 32, 1 << 32), b""), "overflow"),
    "dims_absurd_beside_zero": ("net/w", raw_record((0, 1 << 62, 1 << 62), b""), "overflow"),
    "dims_too_many": ("net/w", raw_record((1,) * 400), "400 dimensions"),
    "type_unknown": ("net/w", raw_record(code=99), "unknown element type code 99"),
    "type_missing": ("net/w", raw_record(description=varint_field(2, 2)), "the element type is missing"),
    "type_not_a_number": ("net/w", raw_record(description=bytes_field(1, b"x")), "field 1 is not a plain number"),
    "varint_endless": ("net/w", raw_record(description=b"\x08" + b"\xff" * 20), "a varint of more than 64 bits"),
    "varint_cut": ("net/w", raw_record(description=b"\x08\x05\x10\xff"), "the bytes end inside a varint"),
    "wire_type_unknown": ("net/w", raw_record(description=b"\x0f\x01"), "protobuf wire type 7"),
    "field_number_zero": ("net/w", raw_record(description=b"\x00\x01"), "protobuf field number 0"),
    "field_overlong": ("net/w", raw_record(description=b"\x0a\x7f"), "field 1 needs 127 bytes, 0 are left"),
    "trailing": ("net/w", GOOD + b"\0\0\0", "3 bytes follow the first tensor: a combined file"),
    "combined_cut": ({"all": record(W) + record(W)[:-2], "order.txt": b"a\nb\n"}, "truncated: the tensor data"),
    "combined_extra": ({"all": record(W) * 3, "order.txt": b"a\nb\n"}, "bytes are left after 2 tensors"),
    "order_twice": ({"all": record(W) * 2, "order.txt": b"a\na\n"}, "'a' occurs twice"),
    "order_not_utf8": ({"all": record(W), "order.txt": b"\xff\xfe\n"}, "must be UTF-8"),
    "pipe": ("net/pipe", None, "not a regular file"),
}

PROGRAMS = {
    "program_empty": ({"m.pdiparams": GOOD, "m.pdmodel": b""}, "without persistable variables"),
    "program_of_noise": ({"m.pdiparams": GOOD, "m.pdmodel": b"\xff" * 40}, "a varint of more than 64 bits"),
    "program_cut": ({"m.pdiparams": GOOD, "m.pdmodel": program({"w": (2,)})[:-9]}, "truncated: field 1 needs"),
    "program_name_not_utf8": (
        {
            "m.pdiparams": GOOD,
            "m.pdmodel": bytes_field(1, bytes_field(3, bytes_field(1, b"\xff\xfe") + varint_field(3, 1))),
        },
        "a variable name is not UTF-8",
    ),
    "program_name_escapes": ({"__model__": program({"../../etc/passwd": (2,)})}, "cannot be a file: the name has '..'"),
    "program_name_absolute": (
        {"__model__": program({"/etc/passwd": (2,)})},
        "cannot be a file: the name is an absolute",
    ),
    "pir_not_json": ({"m.pdiparams": GOOD, "m.json": b'{"base_code":'}, "not a PIR program"),
    "pir_other_json": ({"m.pdiparams": GOOD, "m.json": b'{"base_code": []}'}, "a PIR program of unknown layout"),
    "pir_name_is_a_list": (
        {"m.pdiparams": GOOD, "m.json": pir_program({"w": (2,)}).replace(b'"w"', b"[[]]")},
        "a PIR program of unknown layout",
    ),
    "pir_nested": ({"m.pdiparams": GOOD, "m.json": b'{"a":' * 200_000}, "not a PIR program"),
    "pir_huge": ({"m.pdiparams": GOOD, "m.json": b"{" + b" " * (17 << 20)}, "a JSON program of 17825793 bytes"),
}

PICKLES = {
    "os_system": (
        pickle.dumps({"w": Call(os.system, f"touch {MARKER}")}, 2),
        r"'posix\.system', which is neither an array",
    ),
    "builtins_eval": (pickle.dumps(Call(eval, f"open('{MARKER}', 'w')"), 4), "asks for builtins.eval; nothing was run"),
    "builtins_eval_of_paddle_form": (
        pickle.dumps(Call(eval, "data", {"data": W, "__builtins__": {}}), 4),
        "asks for builtins.eval; nothing was run",
    ),
    "builtins_exec": (pickle.dumps(Call(exec, f"open('{MARKER}', 'w')"), 4), r"'builtins\.exec'"),
    "builtins_getattr": (global_call("__builtin__", "getattr"), r"'__builtin__\.getattr'"),
    "builtins_import": (pickle.dumps(Call(__import__, "os"), 5), r"'builtins\.__import__'"),
    "subprocess": (global_call("subprocess", "Popen", b"(X\x02\x00\x00\x00idt"), r"'subprocess\.Popen'"),
    "numpy_load": (pickle.dumps(Call(np.load, "x.npy", None, True), 4), r"'numpy\.load'"),
    "numpy_fromfile": (global_call("numpy", "fromfile", b"(X\x0b\x00\x00\x00/etc/passwdt"), r"'numpy\.fromfile'"),
    "numpy_memmap": (global_call("numpy", "memmap"), r"'numpy\.memmap'"),
    "numpy_testing_runstring": (
        global_call("numpy.testing._private.utils", "runstring"),
        r"runstring', which is neither",
    ),
    "numpy_ndarray_called": (
        b"\x80\x02}X\x01\x00\x00\x00wcnumpy\nndarray\n(J\xff\xff\xff\x7ftRs.",
        "calls numpy.ndarray itself",
    ),
    "copyreg": (global_call("copyreg", "_reconstructor"), r"'copyreg\._reconstructor'"),
    "codecs_decode": (global_call("_codecs", "decode"), r"'_codecs\.decode'"),
    "codecs_encode_rot13": (
        global_call("_codecs", "encode", b"(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13t"),
        "encodes something other than bytes",
    ),
    "dotted_global": (
        b"\x80\x04" + b"\x8c\x05numpy\x8c\x14ndarray.__subclasses\x93.",
        r"'numpy\.ndarray\.__subclasses', which is neither",
    ),
    "global_of_numbers": (b"\x80\x04K\x01K\x02\x93.", "the name of a constructor is not text"),
    "persistent_id": (b"\x80\x02Pmodule\n.", "pickle operation PERSID"),
    "binary_persistent_id": (b"\x80\x02K\x01Q.", "pickle operation BINPERSID"),
    "extension_1": (b"\x80\x02\x82\x01.", "pickle operation EXT1"),
    "extension_4": (b"\x80\x02\x84\x01\x00\x00\x00.", "pickle operation EXT4"),
    "instance": (b"\x80\x02(ios\nsystem\n.", "pickle operation INST"),
    "object": (b"\x80\x02(cnumpy\nndarray\no.", "pickle operation OBJ"),
    "new_object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "pickle operation NEWOBJ"),
    "new_object_ex": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "pickle operation NEWOBJ_EX"),
    "out_of_band_buffer": (b"\x80\x05\x97.", "pickle operation NEXT_BUFFER"),
    "memo_absurd": (b"\x80\x02}r\xff\xff\xff\xff0.", "0 values are left|too few values"),
    "memo_missing": (b"\x80\x02j\xff\xff\xff\x7f.", "refers to value 2147483647"),
    "length_absurd": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x", "1099511627776 bytes"),
    "length_absurd_text": (b"\x80\x04X" + struct.pack("<I", 1 << 31) + b"x", "2147483648 bytes"),
    "frame_absurd": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.", "a frame of 4611686018427387904 bytes"),
    "long_absurd": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x", "long4"),
    "cut": (pickle.dumps({"w": W}, 4)[:-3], "refused: |truncated"),
    "empty_program": (b"\x80\x02", "pickle exhausted before seeing STOP|no end"),
    "stack_empty": (b"\x80\x02.", "0 values are left"),
    "stack_too_short": (b"\x80\x02R.", "too few values on the stack"),
    "mark_missing": (b"\x80\x02t.", "finds no mark"),
    "mark_undercut": (b"\x80\x02K\x01(0.", "too few values on the stack"),
    "set_item_of_number": (b"\x80\x02K\x01K\x01K\x02s.", "sets 2 items of a int"),
    "build_on_dictionary": (b"\x80\x02}}b.", "sets the state of a dict"),
    "reduce_on_text": (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls a str; nothing was run"),
    "protocol_1": (b"\x80\x01}.", "not a weights file"),
    "protocol_changes": (b"\x80\x02\x80\x09}.", "pickle protocol 9"),
    "trailing": (pickle.dumps({"w": W}, 2) + b"cos\nsystem\n", "11 bytes follow the end of the pickle"),
    "shape_absurd": (
        array_pickle(b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85", b"C\x04abcd"),
        "needs 4398046511104 bytes, 4 are",
    ),
    "shape_negative": (array_pickle(b"J\xff\xff\xff\xff\x85", b"C\x04abcd"), "negative dimension -1"),
    "shape_overflow": (array_pickle(b"\x8a\x09" + b"\x00" * 8 + b"\x01\x85", b"C\x04abcd"), "overflow"),
    "shape_of_text": (
        array_pickle(short_text("9") + b"\x85", b"C\x04abcd"),
        "a shape|shape is not made of whole numbers",
    ),
    "data_too_short": (array_pickle(b"K\x02\x85", b"C\x04abcd"), "needs 8 bytes, 4 are given"),
    "array_without_data": (
        b"\x80\x02}X\x01\x00\x00\x00wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rs.",
        "never given its data",
    ),
    "array_of_objects": (pickle.dumps({"w": np.array([{}, 1], object)}, 4), "element type 'O8'"),
    "array_of_records": (pickle.dumps({"w": np.zeros(2, "i4,f4")}, 4), "element type 'V8'"),
    "array_subclass": (pickle.dumps({"w": np.ma.array([1, 2])}, 4), "which is neither an array"),
    "dictionary_in_itself": (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "nested more than 8 deep"),
    "not_a_dictionary": (pickle.dumps([W], 4), "the pickle holds a list"),
    "key_of_tuples": (pickle.dumps({(1, 2): W}, 4), "a dictionary key is a tuple"),
    "name_not_printable": (pickle.dumps({"a\nb": W}, 4), "is not a variable name"),
    "name_surrogate": (pickle.dumps({"a\udc80": W}, 4), "is not a variable name"),
    "split_table_lies": (
        pickle.dumps({"a": W, "UnpackBigParamInfor@@": {"w": {"slices": ["b"], "OriginShape": (2,)}}}),
        "lacks a slice",
    ),
    "split_shape_lies": (
        pickle.dumps({"a": W, "UnpackBigParamInfor@@": {"w": {"slices": ["a"], "OriginShape": (9,)}}}),
        "do not make up its shape",
    ),
    # Twenty to the seventh entries: nested dictionaries that share their children.
    "laughs": (
        b"\x80\x02Nq\x000"
        + b"0".join(
            b"}"
            + b"".join(short_text("abcdefghijklmnopqrst"[k]) + b"h" + bytes([i]) + b"s" for k in range(20))
            + b"q"
            + bytes([i + 1])
            for i in range(7)
        )
        + b".",
        "more than 20000 entries",
    ),
    # One text of 1 MB, turned into bytes 10,000 times.
    "copies": (
        b"\x80\x02"
        + short_text("a" * (1 << 20))
        + b"q\x00"
        + b"("
        + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 10_000
        + b"t.",
        "many times the size of the file",
    ),
    # One array of 1 MB under 10,000 names.
    "shared": (
        array_pickle(b"J\x00\x00\x10\x00\x85", b"B\x00\x00\x10\x00" + bytes(1 << 20), "u1")[:-2]
        + b"q\x01s"
        + b"".join(short_text(f"{i}") + b"h\x01s" for i in range(10_000))
        + b".",
        "many times the size of the file",
    ),
    "endless_operations": (b"\x80\x02" + b"N0" * 1_000_000 + b"N.", "more than 200000 pickle operations"),
    "endless_digits": (b"\x80\x02I" + b"9" * 1_000_000 + b"\n.", "refused: "),
}

SAFETENSORS = {
    "header_length_lies": (safetensors_file({}, b"", length=1 << 50), "a header of 1125899906842624 bytes"),
    "header_length_over_end": (safetensors_file(with_one(), b"", length=500), "a header of 500 bytes"),
    "header_length_short": (safetensors_file(with_one(), bytes(8), length=20), "is not JSON"),
    "header_cut": (struct.pack("<Q", 9)[:5], "truncated: the header length"),
    "header_not_json": (safetensors_file(b"{'w': 1}", b""), "is not JSON"),
    "header_a_list": (safetensors_file([], b""), "the safetensors header is a list"),
    "header_nested": (safetensors_file(b'{"a":' * 100_000, b""), "is not JSON"),
    "header_twice": (safetensors_file(b'{"w":1,"w":2}', b""), "a key occurs twice"),
    "entry_incomplete": (safetensors_file({"w": {"dtype": "F32"}}, b""), "must have dtype, shape and data_offsets"),
    "entry_a_number": (safetensors_file({"w": 3}, b""), "must have dtype, shape and data_offsets"),
    "type_unknown": (safetensors_file(with_one(dtype="F8_E4M3"), bytes(8)), "unknown type 'F8_E4M3'"),
    "type_a_list": (safetensors_file(with_one(dtype=["F32"]), bytes(8)), "unknown type"),
    "shape_negative": (safetensors_file(with_one(shape=[-2]), bytes(8)), "negative dimension -2"),
    "shape_overflow": (safetensors_file(with_one(shape=[1 << 40, 1 << 40]), bytes(8)), "overflow"),
    "shape_of_floats": (safetensors_file(with_one(shape=[2.0]), bytes(8)), "lists of whole numbers"),
    "shape_of_booleans": (safetensors_file(with_one(shape=[True, 2]), bytes(8)), "lists of whole numbers"),
    "offsets_lie": (
        safetensors_file(with_one(data_offsets=[0, 4]), bytes(8)),
        "offsets 0 to 4, but shape .* takes 8 bytes",
    ),
    "offsets_negative": (safetensors_file(with_one(data_offsets=[-8, 0]), bytes(8)), "offsets -8 to 0"),
    "offsets_reversed": (safetensors_file(with_one(data_offsets=[8, 0]), bytes(8)), "offsets 8 to 0"),
    "offsets_over_end": (safetensors_file(with_one(), bytes(4)), "truncated: tensor 'w' ends at offset 8"),
    "offsets_overlap": (
        safetensors_file({**with_one(), "v": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
        "tensor 'v' at offset 4 overlaps",
    ),
    "offsets_gap": (
        safetensors_file({**with_one(), "v": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}}, bytes(20)),
        "tensor 'v' at offset 12 leaves a gap",
    ),
    "trailing": (safetensors_file(with_one(), bytes(9)), "1 bytes follow the last tensor"),
}

REGULAR_FILE, SYMBOLIC_LINK, PIPE, DEVICE = 0o100644, 0o120777, 0o010644, 0o020644


def tar_with(field: slice, value: bytes, checksum: bool = True) -> bytes:
    """A good tar whose first header has other bytes in one field."""
    block = bytearray(tar_of("net/w"))
    block[field] = value.ljust(field.stop - field.start, b"\0")
    if checksum:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return tar_file([tar_member("pax", records, kind), tar_member("net/w", GOOD)])


def links(kind: bytes, target: str) -> bytes:
    return tar_file([tar_member("net/w", GOOD), tar_member("net/link", b"", kind, target)])


TARS = {
    "traversal": (tar_of("net/w", "net/../../escaped"), "has '..'"),
    "traversal_alone": (tar_of(".."), "has '..'"),
    "absolute": (tar_of("/tmp/slim_distill_escaped"), "is an absolute path"),
    "drive": (tar_of("C:/escaped"), "has a drive letter or a backslash"),
    "backslash": (tar_of("..\\escaped"), "has a drive letter or a backslash"),
    "symbolic_link": (links(tarfile.SYMTYPE, "/etc/passwd"), "'net/link' is a symbolic link"),
    "symbolic_link_then_file": (
        tar_file([tar_member("net", b"", tarfile.SYMTYPE, "/tmp"), tar_member("net/escaped", GOOD)]),
        "'net' is a symbolic link",
    ),
    "hard_link": (links(tarfile.LNKTYPE, "../../../etc/passwd"), "'net/link' is a hard link"),
    "character_device": (links(tarfile.CHRTYPE, ""), "is a character device"),
    "block_device": (links(tarfile.BLKTYPE, ""), "is a block device"),
    "pipe": (links(tarfile.FIFOTYPE, ""), "is a pipe"),
    "unknown_kind": (links(b"Z", ""), "of unknown kind b'Z'"),
    "sparse": (links(tarfile.GNUTYPE_SPARSE, ""), "is a sparse file"),
    "twice": (tar_of("net/w", "net/w"), "occurs twice"),
    "twice_written_differently": (tar_of("net/w", "./net//w"), "occurs twice"),
    "file_and_folder": (tar_of("net", "net/w"), "as both a file and a folder"),
    "name_not_utf8": (tar_with(slice(0, 100), b"net/\xff\xfe"), "a name that is not UTF-8"),
    "name_control": (tar_of("net/a\tb"), "is empty or has control characters"),
    "name_too_long": (tar_of("n" * 300), "too deep or too long"),
    "name_too_deep": (tar_of("a/" * 40 + "w"), "too deep or too long"),
    "size_not_octal": (tar_with(slice(124, 136), b"9999999"), "the size of a tar header is not a number"),
    "size_absurd": (tar_with(slice(124, 136), b"\x80" + b"\xff" * 11), "declares .* bytes"),
    "size_beyond_end": (tar_with(slice(124, 136), b"77777"), "the archive ends inside or before member 'net/w'"),
    "checksum_wrong": (tar_with(slice(0, 100), b"net/x", checksum=False), "wrong checksum"),
    "cut_in_header": (tar_of("net/w")[:300], "the archive ends inside or before a header"),
    "cut_in_data": (tar_of("net/w")[:520], "the archive ends inside or before member"),
    "cut_in_padding": (tar_of("net/w")[:560], "the archive ends inside or before the padding"),
    "cut_between_members": (tar_of("net/w", "net/v")[:1024], "the archive ends inside or before a header"),
    "header_damaged_midway": (tar_of("net/w")[:1024] + b"x" * 1024, "wrong checksum|not a number"),
    "data_after_end": (tar_of("net/w") + tar_of("net/hidden"), "data follows the end"),
    "pax_huge": (pax(b"13 path=/abc\n" * 90_000), "an extended header of 1170000 bytes"),
    "pax_path_escapes": (pax(b"21 path=../../escaped\n"[:22].replace(b"21", b"22")), "has '..'"),
    "pax_length_lies": (pax(b"99 path=w\n"), "a damaged pax header"),
    "pax_length_zero": (pax(b"0 path=w\n"), "a damaged pax header"),
    "pax_length_not_a_number": (pax(b"xx path=w\n"), "a number of a pax header is not one"),
    "pax_global_rename": (pax(b"10 path=w\n", tarfile.XGLTYPE), "renames every member"),
    "pax_sparse": (pax(b"22 GNU.sparse.major=1\n"), "a sparse file"),
    "folder_with_content": (tar_with(slice(156, 157), b"5"), "has 32 bytes of content"),
    "not_a_tar": (b"x" * 2048, "not a tar archive|not a number"),
    "no_files": (tar_file([tar_member("net/", b"", tarfile.DIRTYPE)]), EMPTY_ARCHIVE),
    "too_many_members": (tar_file([tar_member(f"net/{i}") for i in range(10_001)]), "more than 10000 members"),
}

BOMB = bytes(40 << 20)

GZIPS = {
    "bomb": (gzipped(tar_file([tar_member("net/w", BOMB)])), "a compression bomb"),
    "bomb_in_padding": (gzipped(tar_of("net/w") + BOMB), "a compression bomb"),
    "bomb_in_extension": (
        gzipped(tar_file([tar_member("net/w", BOMB, tarfile.XHDTYPE)])),
        "an extended header of 41943040",
    ),
    "size_impossible": (gzipped(tar_with(slice(124, 136), b"77777777777")), "declares 8589934591 bytes"),
    "cut": (gzipped(tar_of("net/w"))[:-20], "damaged gzip data|ends inside"),
    "damaged": (gzipped(tar_of("net/w"))[:40] + b"\0" * 40, "damaged gzip data|ends inside"),
    "not_a_tar": (gzipped(b"hello"), "the archive ends inside or before a header"),
}


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new)


ZIPS = {
    "traversal": (zip_file([("net/w", GOOD), ("../../escaped", GOOD)]), "has '..'"),
    "absolute": (zip_file([("/tmp/slim_distill_escaped", GOOD)]), "is an absolute path"),
    "drive": (zip_file([("C:/escaped", GOOD)]), "has a drive letter"),
    "backslash": (zip_file([("net\\..\\w", GOOD)]), "has a drive letter or a backslash"),
    "name_with_zero": (patched(zip_file([("net/wXw", GOOD)]), b"wXw", b"w\0w"), "is empty or has control characters"),
    "symbolic_link": (zip_file([(zip_member("net/l", SYMBOLIC_LINK), b"/etc/passwd")]), "is a link, device or pipe"),
    "device": (zip_file([(zip_member("net/d", DEVICE), b"")]), "is a link, device or pipe"),
    "pipe": (zip_file([(zip_member("net/p", PIPE), b"")]), "is a link, device or pipe"),
    "twice": (patched(zip_file([("net/a", GOOD), ("net/b", GOOD)]), b"net/b", b"net/a"), "occurs twice"),
    "name_not_utf8": (patched(zip_file([("net/ß", GOOD)]), "ß".encode(), b"\xff\xfe"), "a damaged .zip: 'utf-8'"),
    "name_of_old_code_page": (
        patched(zip_file([("net/xy", GOOD)]), b"xy", b"\x84\x94"),
        "named in another encoding than UTF-8",
    ),
    "bomb": (zip_file([("net/w", BOMB)]), "a compression bomb"),
    "size_lies": (
        patched(zip_file([("net/w", GOOD)]), struct.pack("<I", len(GOOD)), struct.pack("<I", 0x7FFFFFFF)),
        "declares 2147483647 bytes",
    ),
    "encrypted": (patched(zip_file([("net/w", GOOD)]), b"\x14\0\0\0\x08\0", b"\x14\0\x01\0\x08\0"), "is encrypted"),
    "method_unknown": (patched(zip_file([("net/w", GOOD)]), b"\0\0\x08\0", b"\0\0\x0c\0"), "compressed by method 12"),
    "damaged": (patched(zip_file([("net/w", GOOD)], 0), b"\x08\x05\x10\x02", b"\x08\x05\x10\x03"), "Bad CRC-32"),
    "offset_before_the_start": (
        zip_file([("net/w", GOOD)])[:-6] + struct.pack("<IH", 1 << 20, 0),
        "a damaged .zip",
    ),
    "cut": (zip_file([("net/w", GOOD)])[:-30], "truncated: the directory at the end of the .zip is missing"),
    "directory_absurd": (
        zip_file([("net/w", GOOD)])[:-10] + struct.pack("<IIH", 0xFFFFFFFF, 0, 0),
        "a .zip directory of 4294967295 bytes",
    ),
}


def cases(group: str, suffix: str, table: dict) -> list:
    """Bring a table to (id, files, message)."""
    found = []
    for name, entry in table.items():
        if len(entry) == 3:
            files, message = {entry[0]: entry[1]}, entry[2]
        else:
            content, message = entry
            files = content if isinstance(content, dict) else {f"hostile{suffix}": content}
        found.append(pytest.param(files, message, id=f"{group}-{name}"))
    return found


CASES = [
    *cases("record", "", RECORDS),
    *cases("program", "", PROGRAMS),
    *cases("pickle", ".pdparams", PICKLES),
    *cases("safetensors", ".safetensors", SAFETENSORS),
    *cases("tar", ".tar", TARS),
    *cases("gzip", ".tar.gz", GZIPS),
    *cases("zip", ".zip", ZIPS),
]


@pytest.mark.parametrize(("files", "message"), CASES)
def test_hostile_file_is_refused(tmp_path, monkeypatch, files, message):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name, content in files.items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            os.mkfifo(path)
        else:
            path.write_bytes(content)
    first = next(iter(files))
    source = work / (first.split("/")[0] if "/" in first else "" if first == "__model__" else first)
    before = tree(tmp_path)
    started = time.process_time()
    with pytest.raises(WeightsError, match=message):
        read_weights(source, cache_dir=tmp_path / "cache")
    assert time.process_time() - started < SECOND
    tracemalloc.start()
    with pytest.raises(WeightsError, match=message):
        read_weights(source, cache_dir=tmp_path / "cache")
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert memory < MEMORY
    assert {name: size for name, size in tree(tmp_path).items() if not name.startswith("cache")} == before
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.name != "unpacked"]
    assert kept == [] or message == EMPTY_ARCHIVE


def test_there_are_at_least_as_many_cases_as_promised():
    assert len(CASES) >= 40


def test_nothing_of_a_refused_archive_is_left_for_the_next_one(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of("net/w", "../escaped"))
    for _ in range(2):
        with pytest.raises(
            WeightsError, match=r"archive refused, nothing of it is kept: member '\.\./escaped': the name has"
        ):
            read_weights(archive, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "escaped").exists()
    assert [path.suffix for path in (tmp_path / "cache" / "unpacked").iterdir()] == [".lock"]
