// The page works without this. With it, what is marked `data-live` is kept current: fetched anew while the tab is seen, and put in
// place unless somebody is at it. What can't be fetched is said to be old.
(() => {
  const every = 3000;
  const stale = document.getElementById('stale');
  const inUse = (part) => {
    const at = document.activeElement;
    const selected = getSelection();
    return (at !== part && part.contains(at)) || part.querySelector('details[open]')
      || (selected.type === 'Range' && part.contains(selected.anchorNode));
  };
  const refresh = async () => {
    if (document.hidden) return;
    const answer = await fetch(location.href, { headers: { accept: 'text/html' }, redirect: 'manual', signal: AbortSignal.timeout(10000) });
    // The session is over: the login follows.
    if (answer.type === 'opaqueredirect') return location.reload();
    if (!answer.ok) throw new Error(`${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
    for (const part of document.querySelectorAll('[data-live]')) {
      const other = fresh.getElementById(part.id);
      if (other && other.innerHTML !== part.innerHTML && !inUse(part)) part.innerHTML = other.innerHTML;
    }
  };
  // One after the other, and less often where they fail.
  const next = (wait) => setTimeout(async () => {
    try {
      await refresh();
      stale.hidden = true;
      next(every);
    } catch {
      stale.hidden = false;
      next(Math.min(2 * wait, 60000));
    }
  }, wait);
  if (document.querySelector('main [data-live]:not(#standing)')) next(every);
})();
