"""``wattd init``: keys, entries, the ceremony, and data directories."""

import stat

from consensus.chainfile import parse_chain_file
from node.cli.ceremony import chain_id_of, parse_entry
from node.config import load_config
from node.keyfile import read_keys


def test_keys_and_entry(found):
    directory, _ = found()
    keys = read_keys(directory / "keys.toml")
    assert stat.S_IMODE((directory / "keys.toml").stat().st_mode) == 0o600
    entry = parse_entry((directory / "validator-entry.toml").read_text(), "entry")
    assert entry.validator.vote_key == keys.vote_key
    assert entry.validator.identity_key == keys.identity_key
    secret = keys.vote.reveal().hex()
    assert secret in (directory / "keys.toml").read_text()
    assert secret not in (directory / "validator-entry.toml").read_text()


def test_keys_are_kept_when_an_entry_is_made_again(found):
    directory, _ = found()
    before = (directory / "keys.toml").read_text()
    found()
    assert (directory / "keys.toml").read_text() == before


def test_ceremony_makes_one_chain(chain):
    out, directories, said = chain
    params = parse_chain_file(out.read_text())
    assert [each.name for each in params.bft.validators] == ["Grid & Co", "Shop 1"]
    assert params.energy.communities[0].grid_operator == params.bft.validators[0].payout_script
    assert params.allocations[0].script_pubkey == params.bft.validators[1].payout_script
    assert chain_id_of(params) in said
    assert read_keys(directories[0] / "keys.toml").vote_key == params.bft.validators[0].vote_key


def test_ceremony_names_every_problem(wattd, found, tmp_path):
    directories = found("otherchain")
    template = tmp_path / "template.toml"
    template.write_text('[chain]\nname = "clitest"\nx = "@Nobody"\ny = "@Nobody else"\n')
    done = wattd(
        "init",
        "--ceremony",
        template,
        "--entry",
        directories[0] / "validator-entry.toml",
        "--out",
        tmp_path / "c",
    )
    assert done.status == 78
    assert done.out == ""
    for text in ("@Nobody:", "@Nobody else:", "signed for chain 'otherchain'"):
        assert text in done.err
    assert not (tmp_path / "c").exists()


def test_ceremony_refuses_a_changed_entry(wattd, found, tmp_path):
    directories = found()
    path = directories[0] / "validator-entry.toml"
    path.write_text(path.read_text().replace("grid-operator", "service-provider"))
    template = tmp_path / "template.toml"
    template.write_text('[chain]\nname = "clitest"\n')
    done = wattd("init", "--ceremony", template, "--entry", path, "--out", tmp_path / "c")
    assert done.status == 78
    assert "bad-vote-signature" in done.err


def test_bad_entries_list_all_problems(wattd, tmp_path):
    entry, template = tmp_path / "e.toml", tmp_path / "t.toml"
    entry.write_text('name = 5\nrole = "king"\nvote_key = "00"\nextra = 1\n')
    template.write_text("")
    done = wattd("init", "--ceremony", template, "--entry", entry, "--out", tmp_path / "c")
    assert done.status == 78
    for key in ("extra", "chain_name", "name", "role", "vote_key", "identity_key", "payout_script"):
        assert f"{entry}: {key}:" in done.err
    assert done.err.count("\n") == done.err.count("wattd: error: bad-entry: ")


def test_ceremony_never_overwrites(wattd, chain, tmp_path):
    out, directories, _ = chain
    before = out.read_text()
    entries = [option for each in directories for option in ("--entry", each / "validator-entry.toml")]
    done = wattd("init", "--ceremony", tmp_path / "template.toml", "--out", out, *entries)
    assert (done.status, "file-exists" in done.err) == (70, True)
    assert out.read_text() == before


def test_install(wattd, chain, tmp_path):
    out, directories, _ = chain
    peer = f"127.0.0.1:7001@{'ab' * 32}"
    done = wattd(
        "init", "--datadir", directories[0], "--chain", out,
        "--listen", "0.0.0.0:7000", "--rpc-listen", "127.0.0.1:7100", "--peer", peer,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "follower" not in done.out
    config = load_config(directories[0])
    assert (str(config.listen), str(config.rpc.listen)) == ("0.0.0.0:7000", "127.0.0.1:7100")
    assert config.peers[0].identity == bytes.fromhex("ab" * 32)
    assert parse_chain_file(config.chain_file.read_text()) == parse_chain_file(out.read_text())
    again = wattd("init", "--datadir", directories[0], "--chain", out)
    assert again.status == 0
    assert load_config(directories[0]) == config
    fresh = wattd("init", "--datadir", tmp_path / "new", "--chain", out)
    assert "follower" in fresh.out


def test_a_directory_of_another_chain_is_refused(wattd, chain, tmp_path):
    out, directories, _ = chain
    assert wattd("init", "--datadir", directories[0], "--chain", out).status == 0
    other = tmp_path / "other.toml"
    other.write_text(out.read_text().replace("genesis_time_s = 1750000000", "genesis_time_s = 1750000001"))
    done = wattd("init", "--datadir", directories[0], "--chain", other)
    assert done.status == 78
    assert done.err.startswith("wattd: error: foreign-datadir: ")
    assert done.err.count("\n") == 1


def test_usage_errors(wattd, tmp_path):
    for arguments in (
        ["init", "--datadir", tmp_path],
        ["init", "--datadir", tmp_path, "--name", "x"],
        ["init", "--ceremony", tmp_path / "t"],
        ["init", "--datadir", tmp_path, "--chain", "c", "--peer", "nonsense"],
        ["init", "--datadir", tmp_path, "--chain", "c", "--listen", "nowhere"],
    ):
        assert wattd(*arguments).status == 2
    done = wattd("init", "--datadir", tmp_path / "d", "--chain", tmp_path / "missing.toml")
    assert (done.status, "no such file" in done.err) == (78, True)
    (tmp_path / "file").write_text("")
    done = wattd("init", "--datadir", tmp_path / "file" / "d", "--chain", tmp_path / "file")
    assert done.status == 78
