"""What files say of how they were made, in the words of the tool that wrote them; nothing of it is trusted."""
