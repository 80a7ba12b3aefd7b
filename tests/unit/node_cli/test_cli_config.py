"""``wattd config check``: what a node would run with, or everything that is wrong."""


def test_a_good_directory(wattd, chain):
    out, directories, said = chain
    wattd("init", "--datadir", directories[1], "--chain", out)
    done = wattd("config", "check", "--datadir", directories[1])
    assert done.status == 0, done.err
    assert "validator Shop 1" in done.out
    assert said.split("chain id")[1].split()[0] in done.out


def test_everything_that_is_wrong(wattd, chain, tmp_path):
    out, directories, _ = chain
    wattd("init", "--datadir", directories[1], "--chain", out)
    (directories[1] / "keys.toml").chmod(0o644)
    (directories[1] / "chain.toml").write_text("[chain]\nfoo = 1\n")
    done = wattd("config", "check", "--datadir", directories[1])
    assert done.status == 78
    assert "key-file-exposed" in done.err
    assert "foo" in done.err
    assert "genesis_time_s" in done.err
    (directories[1] / "wattd.toml").write_text("x = 1\ny = 2\n")
    done = wattd("config", "check", "--datadir", directories[1])
    assert done.err == "wattd: error: bad-config: x: unknown key\nwattd: error: bad-config: y: unknown key\n"


def test_a_bft_chain_is_not_mined(wattd, chain):
    out, directories, _ = chain
    wattd("init", "--datadir", directories[1], "--chain", out)
    (directories[1] / "wattd.toml").write_text("[mining]\nenabled = true\n")
    done = wattd("config", "check", "--datadir", directories[1])
    assert done.status == 78
    assert "bad-config: mining.enabled: nobody mines a chain of the engine bft" in done.err
