"""RPC methods on the daemon itself."""

from node.rpc.backend import Backend
from node.rpc.registry import METHODS, Method, Text, method

SECTION = "Control"


@method("stop", SECTION)
def stop(node: Backend) -> str:
    """Stop the daemon; returns at once."""
    node.request_stop()
    return "wattd stopping"


@method("uptime", SECTION)
def uptime(node: Backend) -> int:
    """Return how many seconds the daemon has run."""
    return node.uptime_s()


@method("help", SECTION)
def help_text(node: Backend, command: Text | None = None) -> str:
    """List all methods, or explain one ``command``."""
    if command is None:
        return list_methods()
    found = METHODS.get(command)
    return f"help: unknown command: {command}" if found is None else describe(found)


def list_methods() -> str:
    """Return the usage lines of all methods, by section."""
    sections: dict[str, list[str]] = {}
    for each in METHODS.values():
        sections.setdefault(each.section, []).append(each.usage)
    blocks = ["\n".join([f"== {name} ==", *sorted(sections[name])]) for name in sorted(sections)]
    return "\n\n".join(blocks)


def describe(each: Method) -> str:
    """Return usage, explanation and arguments of a method."""
    lines = [each.usage, "", each.help]
    if each.arguments:
        lines += ["", "Arguments:"]
    for number, argument in enumerate(each.arguments, 1):
        need = "required" if argument.required else "optional"
        if not argument.required and argument.default is not None:
            need += f", default={argument.default}"
        lines.append(f"{number}. {argument.name} ({argument.type.json_type}, {need})")
    return "\n".join(lines)
