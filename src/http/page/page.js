// The page works without this. With it, what is marked `data-live` is kept current: fetched anew while the tab is seen, and put in
// place unless somebody is at it.
(() => {
  const every = 3000;
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { headers: { accept: 'text/html' }, redirect: 'error' });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
      for (const part of document.querySelectorAll('[data-live]')) {
        const other = fresh.getElementById(part.id);
        const busy = part.contains(document.activeElement) || part.querySelector('details[open]');
        if (other && !busy && other.innerHTML !== part.innerHTML) part.innerHTML = other.innerHTML;
      }
    } catch { /* The next one may get through. */ }
  };
  if (document.querySelector('[data-live]')) setInterval(refresh, every);
})();
