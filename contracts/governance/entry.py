"""The signed entry of an applicant: the keyless-signature paper's {ID, h(Am), Sig(Am), PK}, made and checked.

apply = sign_application(params, vote_secret, identity_seed, name="esp-9", account=script, agreement_hash=h)
payload = contracts.operations.encode(apply)
"""

from consensus import canonical
from consensus.errors import RuleError
from consensus.keys import ed25519_sign, ed25519_verify
from consensus.params import ChainParams, Validator
from consensus.validators import check_entry, sign_entry
from contracts.devices import chain_tag
from contracts.governance.operations import Apply
from contracts.scope import GRID_OPERATOR, SERVICE_PROVIDER

AGREEMENT_TAG = "wattd/licence-agreement/1"


def role_of(params: ChainParams, account: bytes) -> str:
    """Return the role in which ``account`` applies: whoever runs the grid of a community runs it."""
    operators = [community.grid_operator for community in params.energy.communities]
    return GRID_OPERATOR if account in operators else SERVICE_PROVIDER


def entry_of(params: ChainParams, operation: Apply) -> Validator:
    """Return the validator entry that an application stands for."""
    return Validator(
        name=operation.name,
        role=role_of(params, operation.account),
        vote_key=operation.vote_key,
        identity_key=operation.identity_key,
        payout_script=operation.account,
        vote_signature=operation.vote_signature,
        identity_signature=operation.identity_signature,
    )


def agreement_message(tag: bytes, account: bytes, identity_key: bytes, agreement_hash: bytes) -> bytes:
    """Return what an applicant signs to accept the licence agreement; ``tag`` as of ``chain_tag``."""
    return canonical.encode([AGREEMENT_TAG, tag, account, identity_key, agreement_hash])


def sign_application(
    params: ChainParams,
    vote_secret: bytes,
    identity_seed: bytes,
    *,
    name: str,
    account: bytes,
    agreement_hash: bytes,
) -> Apply:
    """Return the signed application of ``account``; both secrets have 32 bytes.

    Raises RuleError ``bad-op-field`` for a name, account or hash that no application may have.
    """
    entry = sign_entry(
        vote_secret,
        identity_seed,
        chain_name=params.name,
        name=name,
        role=role_of(params, account),
        payout_script=account,
    )
    message = agreement_message(chain_tag(params), account, entry.identity_key, agreement_hash)
    return Apply.parse(
        account,
        name,
        entry.vote_key,
        entry.identity_key,
        entry.vote_signature,
        entry.identity_signature,
        agreement_hash,
        ed25519_sign(identity_seed, message),
    )


def check_application(params: ChainParams, operation: Apply) -> None:
    """Check the three signatures of an application.

    Raises RuleError: bad-vote-signature, bad-identity-signature, bad-agreement-signature.
    """
    check_entry(params.name, entry_of(params, operation))
    message = agreement_message(
        chain_tag(params), operation.account, operation.identity_key, operation.agreement_hash
    )
    if not ed25519_verify(operation.identity_key, message, operation.agreement_signature):
        raise RuleError("bad-agreement-signature", f"not {operation.name}'s signature of that agreement")
