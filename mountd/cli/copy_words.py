"""What `mountd copy` says of itself. Pure."""

from mountd.in_words import counted, human_bytes, human_seconds
from mountd.transfer.crew import Rate, Tally
from mountd.transfer.run import Outlook


def foretold(outlook: Outlook) -> str:
    """What will be done, in one line."""
    plan = outlook.plan
    words = f"{counted(len(plan.copies), 'file')} to copy, {human_bytes(plan.copy_bytes)}"
    if plan.same:
        words += f"; {len(plan.same)} there already"
    if plan.deletes:
        words += f"; {len(plan.deletes)} to delete"
    if plan.folders:
        words += f"; {counted(len(plan.folders), 'empty folder')} to make"
    if plan.old_folders:
        words += f"; {counted(len(plan.old_folders), 'folder')} to remove if empty"
    if plan.refusals:
        words += f"; {len(plan.refusals)} can't be copied"
    if outlook.free_bytes is not None:
        words += f"; {human_bytes(outlook.free_bytes)} free"
    if outlook.rate and plan.copies:
        takes = human_seconds(max(1.0, plan.copy_bytes / outlook.rate))
        words += f"; about {takes} at the {human_bytes(outlook.rate)}/s of the last copy"
    return words


def going_words(outlook: Outlook, tally: Tally, rate: Rate) -> str:
    """How far it is: files, bytes, rate, and when it will be done."""
    plan = outlook.plan
    per_s = rate.now(tally.moved_bytes)
    words = f"{tally.files} of {counted(len(plan.copies), 'file')}"
    have_bytes = min(tally.moved_bytes + tally.here_bytes, plan.copy_bytes)
    words += f", {human_bytes(have_bytes)} of {human_bytes(plan.copy_bytes)}"
    if per_s > 0:
        left_s = (plan.copy_bytes - have_bytes) / per_s
        words += f", {human_bytes(per_s)}/s, {human_seconds(left_s)} left"
    if tally.failures:
        words += f", {len(tally.failures)} failed"
    return words


def going_facts(outlook: Outlook, tally: Tally, rate: Rate) -> dict[str, object]:
    """The same for a program (`mountd.CopyProgress`)."""
    plan = outlook.plan
    return {
        "files": tally.files,
        "bytes": min(tally.moved_bytes + tally.here_bytes, plan.copy_bytes),
        "total_files": len(plan.copies),
        "total_bytes": plan.copy_bytes,
        "bytes_per_s": rate.now(tally.moved_bytes),
        "failed": len(tally.failures),
    }


def ended_facts(outlook: Outlook, tally: Tally, rate: Rate) -> dict[str, object]:
    """What was done, for a program (`mountd.CopySummary`)."""
    return {
        "files": tally.files,
        "bytes": tally.bytes,
        "unchanged": len(outlook.plan.same),
        "deleted": tally.deleted,
        "skipped": len(outlook.specials),
        "unchecked": tally.unchecked,
        "planned_files": len(outlook.plan.copies),
        "planned_bytes": outlook.plan.copy_bytes,
        "seconds": rate.elapsed_s,
    }


def why(error: Exception) -> str:
    """Why a file was not copied, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def summary(outlook: Outlook, tally: Tally, rate: Rate) -> str:
    """What was done."""
    took_s = rate.elapsed_s
    words = f"copied {counted(tally.files, 'file')}, {human_bytes(tally.bytes)}"
    if tally.files and took_s > 0:
        words += f" in {took_s:.1f} s ({human_bytes(tally.bytes / took_s)}/s)"
    words += f"; {len(outlook.plan.same)} unchanged"
    if outlook.plan.deletes:
        is_held_back = tally.failures and not tally.deleted
        words += "; nothing deleted" if is_held_back else f"; {tally.deleted} deleted"
    if tally.folders:
        words += f"; {counted(tally.folders, 'empty folder')} made"
    if outlook.specials:
        words += f"; {len(outlook.specials)} skipped"
    if tally.unchecked:
        words += f"; {tally.unchecked} not compared: the remote tells no checksum"
    if tally.failures:
        words += f"; {len(tally.failures)} failed"
    return words
