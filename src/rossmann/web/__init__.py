"""What web applications of this product share: content security policies, the documentation."""
