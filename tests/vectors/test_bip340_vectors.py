"""The Schnorr vectors of BIP340: signing and verification."""

import csv
from pathlib import Path

from cext import verify_schnorr_batch
from consensus.keys import sign_schnorr, verify_schnorr, xonly_from_secret


def test_every_vector(shared_vectors: Path) -> None:
    with (shared_vectors / "bitcoin" / "bip340_test_vectors.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) >= 19
    for row in rows:
        public_key, message, signature = (
            bytes.fromhex(row[name]) for name in ("public key", "message", "signature")
        )
        holds = row["verification result"] == "TRUE"
        assert verify_schnorr(public_key, message, signature) is holds, row["comment"]
        if len(message) == 32:
            assert verify_schnorr_batch([(message, public_key, signature)]) == [holds], row["comment"]
        if row["secret key"]:
            secret = bytes.fromhex(row["secret key"])
            assert xonly_from_secret(secret) == public_key
            assert sign_schnorr(secret, message, bytes.fromhex(row["aux_rand"])) == signature
