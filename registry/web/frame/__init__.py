"""What all pages share: who looks, the page around what is shown, links, figures, errors, and signing in."""
