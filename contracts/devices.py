"""What a meter's secure element signs, and the signature checks that follow from a payload.

Statements are canonical MessagePack arrays ``[tag, chain tag, ...]`` and name their device, so that
no statement can pass for one of another kind, device or chain.

They are bound to the chain by the **chain tag** and not by the chain id: the chain id is the hash of
the genesis block, which commits to the contracts' genesis state, and ``Contracts.signatures`` is
stateless, so that workers can check signatures before any block exists. The tag covers what tells two
chains apart before their genesis: name, genesis time and the founders' vote keys, or the accounts of the
organisations where nobody votes.
"""

from consensus import canonical
from consensus.hashes import sha256
from consensus.keys import ed25519_public, ed25519_sign
from consensus.params import ChainParams
from consensus.ports import SignatureCheck
from contracts.operations import Operation, ReadingItem, RegisterDevice, SubmitReadings

CHAIN_TAG = "wattd/chain-tag/1"
READING_TAG = "wattd/reading/1"
REGISTRATION_TAG = "wattd/device-registration/1"
SCHEME = "ed25519"


def chain_tag(params: ChainParams) -> bytes:
    """Return the 32 bytes that bind device statements to the chain."""
    founders = [validator.vote_key for validator in params.bft.validators]
    if params.pow is not None:
        founders = [organisation.account for organisation in params.organisations]
    return sha256(canonical.encode([CHAIN_TAG, params.name, params.genesis_time_s, founders]))


def registration_message(tag: bytes, device_key: bytes, owner: bytes, community: str) -> bytes:
    """Return what a device signs to prove that it holds its key and belongs to ``owner``."""
    return canonical.encode([REGISTRATION_TAG, tag, device_key, owner, community])


def reading_message(tag: bytes, device_key: bytes, slot: int, import_wh: int, export_wh: int) -> bytes:
    """Return what a device signs for its reading of ``slot``: energy from and to the network."""
    return canonical.encode([READING_TAG, tag, device_key, slot, import_wh, export_wh])


def prove_device(tag: bytes, seed: bytes, owner: bytes, community: str) -> bytes:
    """Return the proof for RegisterDevice, 64 bytes; ``seed`` is the device's Ed25519 seed (32 bytes)."""
    return ed25519_sign(seed, registration_message(tag, ed25519_public(seed), owner, community))


def sign_reading(tag: bytes, seed: bytes, slot: int, import_wh: int, export_wh: int) -> ReadingItem:
    """Return a signed reading of the device with this Ed25519 seed (32 bytes)."""
    device_key = ed25519_public(seed)
    message = reading_message(tag, device_key, slot, import_wh, export_wh)
    return ReadingItem(device_key, slot, import_wh, export_wh, ed25519_sign(seed, message))


def signature_checks(tag: bytes, operation: Operation) -> tuple[SignatureCheck, ...]:
    """Return the device signatures that ``operation`` carries."""
    if isinstance(operation, SubmitReadings):
        return tuple([_reading_check(tag, item) for item in operation.items])
    if isinstance(operation, RegisterDevice):
        message = registration_message(tag, operation.device_key, operation.owner, operation.community)
        return (SignatureCheck(SCHEME, operation.device_key, message, operation.proof),)
    return ()


def _reading_check(tag: bytes, item: ReadingItem) -> SignatureCheck:
    device_key, slot, import_wh, export_wh, signature = item
    message = reading_message(tag, device_key, slot, import_wh, export_wh)
    return SignatureCheck(SCHEME, device_key, message, signature)
