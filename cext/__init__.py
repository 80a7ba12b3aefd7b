"""Native kernels and their pure-Python twin (rank 0).

``cext`` is the one door to everything that is worth writing in C: SHA-256, Merkle roots, CRC32C, the
transaction scan, signature batches and plain payments. The native module is used when it was built and
loads; otherwise, or when the environment says ``WATTD_PURE=1``, its twin is. Both pass the same tests, and
``IMPLEMENTATION`` says which one runs.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cext._native import (
        IMPLEMENTATION,
        PaymentBatch,
        ScannedTx,
        crc32c,
        create_coins,
        judge_payments,
        merkle_root,
        move_payments,
        next_unusual,
        output_coin,
        outside_prevouts,
        plain_cost,
        plain_fee,
        pow_search,
        scan_transaction,
        sha256d,
        sha256d_many,
        sha_kernel,
        signature_backend,
        tree_root,
        usual_fee,
        verify_ecdsa_batch,
        verify_schnorr_batch,
    )
else:
    try:
        if os.environ.get("WATTD_PURE", "") not in ("", "0"):
            raise ImportError("WATTD_PURE asks for the pure twin")
        from cext import _native as _chosen

        if not (hasattr(_chosen, "tree_root") and hasattr(_chosen.PaymentBatch, "start")):
            raise ImportError("the native module was built from older sources")
    except ImportError:
        from cext import _pure as _chosen

    IMPLEMENTATION = _chosen.IMPLEMENTATION
    PaymentBatch = _chosen.PaymentBatch
    ScannedTx = _chosen.ScannedTx
    crc32c = _chosen.crc32c
    create_coins = _chosen.create_coins
    judge_payments = _chosen.judge_payments
    merkle_root = _chosen.merkle_root
    move_payments = _chosen.move_payments
    next_unusual = _chosen.next_unusual
    output_coin = _chosen.output_coin
    outside_prevouts = _chosen.outside_prevouts
    plain_cost = _chosen.plain_cost
    plain_fee = _chosen.plain_fee
    pow_search = _chosen.pow_search
    scan_transaction = _chosen.scan_transaction
    sha256d = _chosen.sha256d
    sha256d_many = _chosen.sha256d_many
    sha_kernel = _chosen.sha_kernel
    signature_backend = _chosen.signature_backend
    tree_root = _chosen.tree_root
    usual_fee = _chosen.usual_fee
    verify_ecdsa_batch = _chosen.verify_ecdsa_batch
    verify_schnorr_batch = _chosen.verify_schnorr_batch

__all__ = [
    "IMPLEMENTATION",
    "PaymentBatch",
    "ScannedTx",
    "crc32c",
    "create_coins",
    "judge_payments",
    "merkle_root",
    "move_payments",
    "next_unusual",
    "output_coin",
    "outside_prevouts",
    "plain_cost",
    "plain_fee",
    "pow_search",
    "scan_transaction",
    "sha256d",
    "sha256d_many",
    "sha_kernel",
    "signature_backend",
    "tree_root",
    "usual_fee",
    "verify_ecdsa_batch",
    "verify_schnorr_batch",
]
