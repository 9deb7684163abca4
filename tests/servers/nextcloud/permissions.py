"""oc:permissions, and who is refused what."""

from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.service import Service
from tests.servers.nextcloud.tree import Node


def permissions(service: Service, node: Node) -> str:
    """S shared, R may be shared, M mounted, G readable, D, N V (rename, move), W or C K."""
    mount = node.mount()
    letters = ("S" if mount == "shared" else "") + "R" + ("M" if mount else "")
    if service.settings.release >= 26:
        letters += "G"
    letters += "DNV" + ("CK" if node.is_folder else "W")
    denied = "".join(each.denied for each in node.lineage())
    return "".join(letter for letter in letters if letter not in denied)


def need(service: Service, node: Node, letter: str) -> None:
    """403 where the node lacks the letter."""
    if letter not in permissions(service, node):
        raise refused(403, f"{node.name} lacks {letter}")


def check_unlocked(node: Node, user: str) -> None:
    """423 with the owner's name where somebody else holds a lock on the node or above or below."""
    for each in (*node.lineage(), *node.walk()):
        if each.lock is not None and each.lock.owner != user:
            raise refused(423, f'"{each.path()}" is locked by {each.lock.owner_name}')


def free_bytes(service: Service, user: str) -> int:
    """What is left of the quota; negative where there is none."""
    quota = service.settings.quota_bytes
    if quota < 0:
        return quota
    account = service.accounts[user]
    return max(0, quota - account.used_bytes() - account.trashed_bytes())


def check_quota(service: Service, user: str, needed_bytes: int) -> None:
    free = free_bytes(service, user)
    if 0 <= free < needed_bytes:
        raise refused(507, f"Insufficient space, {needed_bytes} required, {free} available")
