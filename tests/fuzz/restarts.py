"""Restart files and reports: what decodes comes back, and only the signed restart holds."""

from consensus.errors import RuleError
from consensus.restart import check_whole, decode_restart, encode_restart
from node.restarts import Report, decode_report
from tests.fuzz.mutate import mutate_msgpack
from tests.fuzz.runner import Target, ensure
from tests.unit.consensus.test_restart_form import CHAIN, NAME, restart, round_of


def restart_file() -> Target:
    signed, found = restart(), round_of(7)

    def run(data: bytes) -> str:
        read = decode_restart(data)
        ensure(encode_restart(read) == data, "one restart, one form")
        try:
            check_whole(read, found, CHAIN, NAME)
        except RuleError as error:
            return error.code
        ensure(read == signed, "nothing else holds")
        return "holds"

    samples = [encode_restart(each) for each in (signed, restart(signed=False))]
    return Target("restart_file", samples, run, mutate_msgpack(), max_bytes=65_536)


def restart_report() -> Target:
    made = restart()
    report = Report("p4", made.members[0].vote_key, CHAIN, 3, 139, made.certificate, True, "")

    def run(data: bytes) -> str:
        ensure(decode_report(data).encode() == data, "one report, one form")
        return "read"

    return Target("restart_report", [report.encode()], run, mutate_msgpack())


TARGETS = (restart_file, restart_report)
